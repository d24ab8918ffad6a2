"""Our counters and histograms, as a scraper reads them."""

import asyncio
import time

from prometheus_client.parser import text_string_to_metric_families

from tas_mcp import telemetry
from tas_mcp.pulse import LAG, measured
from tests.shared.rig import until

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def test_a_trace_is_shown_in_the_bucket_of_its_value() -> None:
    histogram = telemetry.histogram("mcp_test_examples", "Made by a test", ["kind"], buckets=(0.1, 1.0))
    child = histogram.labels("a")
    for value in (0.05, 0.5, 0.5):
        child.observe(value)
    child.point(0.5, "first")
    child.point(0.6, "ab" * 16)
    lines = telemetry.render(OPENMETRICS)[0].decode().splitlines()
    shown = [line for line in lines if line.startswith("mcp_test_examples_bucket")]
    assert shown[0] == 'mcp_test_examples_bucket{kind="a",le="0.1"} 1.0'
    assert shown[1].startswith('mcp_test_examples_bucket{kind="a",le="1.0"} 3.0 # {trace_id="' + "ab" * 16 + '"} 0.6 ')
    assert shown[2] == 'mcp_test_examples_bucket{kind="a",le="+Inf"} 3.0'
    text = telemetry.render("text/plain")[0].decode()
    assert "trace_id" not in text
    assert "mcp_test_examples" in {family.name for family in text_string_to_metric_families(text)}


async def test_a_loop_that_is_held_up_shows() -> None:
    async with measured():
        before = LAG.labels().sum
        await asyncio.sleep(0)
        time.sleep(0.6)
        await until(lambda: LAG.labels().sum - before > 0.2)
