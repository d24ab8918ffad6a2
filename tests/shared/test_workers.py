"""The pages of several workers as one."""

import pytest

from tas_mcp.workers import merge_pages

CASES = {
    "nothing": ({}, ""),
    "one": (
        {"0": "# HELP a A\n# TYPE a gauge\na 1.0\n"},
        '# HELP a A\n# TYPE a gauge\na{worker="0"} 1.0',
    ),
    "a family is told once, its samples stand together": (
        {
            "0": "# HELP a A\n# TYPE a gauge\na 1.0\n# HELP b B\n# TYPE b gauge\nb 2.0\n",
            "1": "# HELP a A\n# TYPE a gauge\na 3.0\n# HELP b B\n# TYPE b gauge\nb 4.0\n",
        },
        '# HELP a A\n# TYPE a gauge\na{worker="0"} 1.0\na{worker="1"} 3.0\n'
        '# HELP b B\n# TYPE b gauge\nb{worker="0"} 2.0\nb{worker="1"} 4.0',
    ),
    "labels stay": (
        {"0": '# HELP a A\n# TYPE a counter\na_total{x="1",y="2"} 1.0\n'},
        '# HELP a A\n# TYPE a counter\na_total{worker="0",x="1",y="2"} 1.0',
    ),
    "a label value may hold anything": (
        {"0": '# HELP a A\n# TYPE a counter\na_total{x="p q {r} \\"s\\""} 1.0\n'},
        '# HELP a A\n# TYPE a counter\na_total{worker="0",x="p q {r} \\"s\\""} 1.0',
    ),
    "a family that only one worker has": (
        {"0": "# HELP a A\n# TYPE a gauge\na 1.0\n", "1": "# HELP b B\n# TYPE b gauge\nb 1.0\n"},
        '# HELP a A\n# TYPE a gauge\na{worker="0"} 1.0\n# HELP b B\n# TYPE b gauge\nb{worker="1"} 1.0',
    ),
    "a family without samples": ({"0": "# HELP a A\n# TYPE a gauge\n"}, "# HELP a A\n# TYPE a gauge"),
    "comments and empty lines go": (
        {"0": "# HELP a A\n# TYPE a gauge\n\n# more\na 1.0 1700000000\n"},
        '# HELP a A\n# TYPE a gauge\na{worker="0"} 1.0 1700000000',
    ),
    "OpenMetrics, with its examples and its end": (
        {
            "0": '# HELP h H\n# TYPE h histogram\nh_bucket{le="1.0"} 2.0 # {trace_id="ab"} 0.5 17.5\n# EOF\n',
            "1": '# HELP h H\n# TYPE h histogram\nh_bucket{le="1.0"} 1.0\n# EOF\n',
        },
        '# HELP h H\n# TYPE h histogram\nh_bucket{worker="0",le="1.0"} 2.0 # {trace_id="ab"} 0.5 17.5\n'
        'h_bucket{worker="1",le="1.0"} 1.0\n# EOF',
    ),
    "a histogram": (
        {"0": '# HELP h H\n# TYPE h histogram\nh_bucket{le="1.0"} 2.0\nh_count 2.0\nh_sum 1e-05\n'},
        '# HELP h H\n# TYPE h histogram\nh_bucket{worker="0",le="1.0"} 2.0\nh_count{worker="0"} 2.0\nh_sum{worker="0"} 1e-05',
    ),
}


@pytest.mark.parametrize(("pages", "merged"), CASES.values(), ids=CASES.keys())
def test_merge(pages: dict[str, str], merged: str) -> None:
    assert merge_pages(pages) == merged + "\n"
