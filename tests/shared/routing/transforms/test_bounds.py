"""What one transform of one event costs at most, whatever strangers write: work is counted, and no single step is unbounded.

The worst of what is accepted is to stay below 50 ms of processor time, on the largest event that is accepted.
"""

import time
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from tas_mcp.messages import Event
from tas_mcp.routing import View
from tas_mcp.routing.transforms import Transform, TransformFailed, compile_transform
from tas_mcp.routing.transforms.expressions import MAX_DATA
from tests.shared.routing.transforms.rig import ACCEPTED, an_order, data, failure

SECONDS = 0.25
"""A slow machine may take longer than the aim; what is unbounded takes many seconds."""
TRIES = 5
"""The best of so many counts: other processes share the machine."""

LARGEST, LARGEST_FOR_JSONATA = 1_048_576, MAX_DATA

BOMBS = [
    {"jsonata": expression}
    for expression in (
        "**",
        "a{$string(b): $}",
        "a ~> $map(function($v) { $v })",
        "$distinct(a)",
        "$keys(a)",
        "$replace(a, 'a', 'b')",
        "$replace(a, /a/, 'b', 100000000)",
        "$replace(a, /(a*)*b/, 'b')",
        "$split(a, '')",
        "$pad('x', 100000000)",
        "[1..10000000]",
        "$formatInteger(1e300, 'w')",
        "$formatInteger(12, $pad('', 10000, '#,') & '0')",
        "$string(a) & $string(a)",
        "$ = $",
        "($f := function($n) { $f($n + 1) }; $f(1))",
        "($f := function() { 1 + $f() }; $f())",
        "($f := function() { [$f(), $f()] }; $f())",
        "($f := function($x) { $f($x & $x) }; $f('aaaa'))",
        "($f := function($x) { $f([$x, $x]) }; $f([1]))",
        "($f := function($x) { $f($append($x, $x)) }; $f([1]))",
        "{'a': 1, 'b': ($f := function($n) { $f($n + 1) }; $f(1))}",  # where the library's own Timebox does not look
    )
] + [
    {"template": template}
    for template in (
        "{{ event.data | json }}",
        "{% for i in (1..1000000000) %}x{% endfor %}",
        "{% for i in (1..99) %}{% for j in (1..99) %}{% for k in (1..99) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for i in event.data.a %}{{ i }}{% endfor %}",
        "{% for i in (1..9000) %}{% if event.data.a contains 'z' %}{% endif %}{% endfor %}",
        "{% for i in (1..9000) %}{% if event.data.a == event.data.b %}{% endif %}{% endfor %}",
        "{% assign x = 'a' %}{% for i in (1..99) %}{% assign x = x | append: x %}{% endfor %}",
        "{% assign x = 9 %}{% for i in (1..99) %}{% assign x = x | times: x %}{% endfor %}",
        "{% assign x = event.data.a %}{% for i in (1..99) %}{% capture x %}{{ x }}{{ x }}{% endcapture %}{% endfor %}",
        "{{ event.data.a | replace: 'a', event.data.a }}",
        "{{ event.data.a | split: '' | uniq | join: event.data.a }}",
        "{{ event.data.a | uniq | sort | map: 'b' | sum }}",
        "{{ event.data.a | url_encode }}",
        "{{ event.data.a | squish }}",
    )
]


def largest(transform: dict[str, Any]) -> list[Event]:
    limit = LARGEST_FOR_JSONATA if "jsonata" in transform else LARGEST
    room = limit - 32
    shapes: list[Any] = ["a" * room, [1] * (room // 2), [{"b": 1}] * (room // 8), "a ü<" * (room // 5)]
    return [Event(event_id="e", event_type="t", source="s", timestamp=1, accepted_at=ACCEPTED, data=encoded(a)) for a in shapes]


def encoded(value: Any) -> Raw:
    return Raw(msgspec.json.encode({"a": value}))


@pytest.mark.parametrize("transform", BOMBS, ids=lambda transform: next(iter(transform.values()))[:60])
def test_the_worst_is_bounded(transform: dict[str, Any]) -> None:
    reshape = compile_transform(Transform(**transform))
    for event in largest(transform):
        view = View(event)
        assert view.data is not None
        assert min(spent(reshape, view) for _ in range(TRIES)) < SECONDS


def spent(reshape: Any, view: View) -> float:
    began = time.thread_time()
    with suppress(TransformFailed):
        reshape(view)
    return time.thread_time() - began


def test_it_fails_for_its_cost_alike_each_time() -> None:
    endless = "($f := function($n) { $f($n + 1) }; $f(1))"
    why = "jsonata: it takes more work than the 20,000 units allowed for one event"
    assert {failure(jsonata=endless) for _ in range(3)} == {why}
    assert failure(add_fields={"data.x": "{% for i in (1..9000) %}{{ i }}{% endfor %}"}) == why.replace("jsonata", "add_fields")


def test_the_budget_is_that_of_the_call() -> None:
    """All templates of a transform share it; the next event has its own."""
    loop = "{% for i in (1..900) %}{{ i }}{% endfor %}"
    for _ in range(3):
        assert data(template={"one": loop})["one"].endswith("900")
    assert "more work than" in failure(template=[loop] * 30)


@pytest.mark.parametrize(
    ("transform", "why"),
    [
        ({"jsonata": "a"}, "an expression takes at most 131,072"),
        ({"template": "{{ event.data.a }}{{ event.data.a }}"}, "output stream limit reached"),
    ],
)
def test_sizes_are_bounded(transform: dict[str, str], why: str) -> None:
    assert why in failure(an_order({"a": "x" * 1_000_000}), **transform)


def test_the_depth_is_bounded() -> None:
    assert failure(jsonata="($f := function($n) { 1 + $f($n) }; $f(1))") == "jsonata: it goes deeper than the 100 levels allowed"


def test_numbers_are_bounded() -> None:
    grow = "{% assign x = 9 %}{% for i in (1..20) %}{% assign x = x | times: x %}{% endfor %}{{ x }}"
    assert failure(template=grow) == "template: a number has more than 1024 bits"
    assert (
        failure(jsonata="$formatInteger(1, $pad('', 300, '0'))")
        == "jsonata: $formatInteger takes texts of at most 256 characters"
    )
