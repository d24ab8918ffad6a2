"""Pins: all that could match, and no wider than need be."""

from typing import Any

import msgspec
import pytest

from tas_mcp.routing import Condition, Rule, compile_rules


def where(field: str, operator: str, value: Any = None, **more: Any) -> dict[str, Any]:
    return {"field": field, "operator": operator, "value": value, **more}


def pinned(*rules: list[dict[str, Any]], field: str = "event_type", prefixes: bool = False) -> Any:
    conditions = [msgspec.convert(rule, list[Condition]) for rule in rules]
    pins = compile_rules([Rule(id=str(i), conditions=each) for i, each in enumerate(conditions)]).pins
    return (pins.prefixes if prefixes else pins.exact)[field]


A = where("event_type", "eq", "a")
AB = where("event_type", "in", ["a", "b"])
BC = where("event_type", "in", ["b", "c"])
S = where("source", "eq", "s")
OTHER = where("data.amount", "gt", 1)


@pytest.mark.parametrize(
    ("rules", "event_types"),
    [
        ([], None),
        ([[]], None),
        ([[OTHER]], None),
        ([[A]], {"a"}),
        ([[OTHER, A]], {"a"}),
        ([[AB]], {"a", "b"}),
        ([[AB, BC]], {"b"}),
        ([[A, BC]], set()),
        ([[A], [BC]], {"a", "b", "c"}),
        ([[A], [OTHER]], None),
        ([[where("event_type", "in", [])]], set()),
        ([[where("event_type", "eq", "a", negate=True)]], None),
        ([[where("event_type", "ne", "a")]], None),
        ([[where("event_type", "eq", 1)]], None),
        ([[where("event_type", "in", ["a", 1])]], None),
        ([[where("data.event_type", "eq", "a")]], None),
        ([[S]], None),
        ([[{"all": [OTHER, {"all": [A]}]}]], {"a"}),
        ([[{"any": [A, BC]}]], {"a", "b", "c"}),
        ([[{"any": [A, S]}]], None),
        ([[{"not": A}]], None),
        ([[{"exact": {"source": "s", "type": "t"}}]], {"t"}),
        ([[{"exact": {"source": "s"}}]], None),
        ([[{"prefix": {"type": "t"}}]], None),
        ([[{"operator": "cel", "value": "event.event_type == 'a'"}]], None),
    ],
)
def test_event_types_are_all_that_could_match(rules: list[Any], event_types: object) -> None:
    assert pinned(*rules) == event_types


@pytest.mark.parametrize(
    ("rules", "prefixes"),
    [
        ([[where("source", "starts_with", "a")]], {"a"}),
        ([[where("source", "starts_with", "a")], [where("source", "starts_with", "ab")]], {"a"}),
        ([[{"any": [where("source", "starts_with", "b"), {"prefix": {"source": "a"}}]}]], {"a", "b"}),
        ([[where("source", "starts_with", "a"), where("source", "starts_with", "ab")]], {"a"}),
        ([[where("source", "ends_with", "a")]], None),
        ([[where("source", "starts_with", "a", negate=True)]], None),
        ([[where("source", "eq", "a")]], None),
    ],
)
def test_prefixes_are_all_that_it_could_start_with(rules: list[Any], prefixes: object) -> None:
    assert pinned(*rules, field="source", prefixes=True) == prefixes


def test_rules_that_are_all_disabled_match_nothing() -> None:
    pins = compile_rules([Rule(id="1", enabled=False)]).pins
    assert pins.exact == {"event_type": frozenset(), "source": frozenset()}
