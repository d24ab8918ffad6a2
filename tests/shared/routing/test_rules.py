"""Rules: which one decides, what is refused and where, and what an index may rely on."""

from typing import Any

import msgspec
import pytest
from hypothesis import given

from tas_mcp.errors import Flaw, Rejected
from tas_mcp.messages import Event
from tas_mcp.routing import Condition, Rule, RuleSet, View, compile_rules
from tas_mcp.routing.rules import MAX_CONDITIONS, MAX_RULES
from tests.shared.routing.reference import a_view, decide, events, rule_lists

VIEW = a_view({"amount": 100})


def where(field: str, operator: str, value: Any = None, *, negate: bool = False) -> Condition:
    return Condition(field=field, operator=operator, value=value, negate=negate)


def rule(id: str, *conditions: Condition, **more: Any) -> Rule:
    return Rule(id=id, conditions=list(conditions), **more)


YES = where("data.amount", "eq", 100)
NO = where("data.amount", "eq", 1)


@pytest.mark.parametrize(
    ("rules", "decision"),
    [
        ([], ""),
        ([Rule(id="all")], "all"),
        ([rule("all")], "all"),
        ([rule("yes", YES)], "yes"),
        ([rule("no", NO)], None),
        ([rule("both", YES, YES)], "both"),
        ([rule("half", YES, NO)], None),
        ([rule("half", NO, YES)], None),
        ([rule("no", NO), rule("yes", YES)], "yes"),
        ([rule("first", YES), rule("second", YES)], "first"),
        ([rule("low", YES), rule("high", YES, priority=1)], "high"),
        ([rule("negative", YES, priority=-1), rule("zero", YES)], "zero"),
        ([rule("b", YES, priority=5), rule("a", YES, priority=5)], "b"),
        ([rule("high", NO, priority=9), rule("low", YES)], "low"),
        ([rule("off", YES, enabled=False)], None),
        ([rule("off", YES, enabled=False, priority=9), rule("on", YES)], "on"),
    ],
)
def test_decides(rules: list[Rule], decision: str | None) -> None:
    assert compile_rules(rules).decide(VIEW) == decision


@given(rules=rule_lists(), event=events())
def test_decides_as_a_plain_evaluation_does(rules: list[Rule], event: Event) -> None:
    compiled = compile_rules(rules)
    decision = compiled.decide(View(event))
    assert decision == decide(rules, event)
    if decision is not None:
        assert compiled.event_types is None or event.event_type in compiled.event_types
        assert compiled.sources is None or event.source in compiled.sources


def rejection(rules: list[Rule]) -> Rejected:
    with pytest.raises(Rejected) as caught:
        compile_rules(rules)
    assert caught.value.code == "INVALID_RULES"
    assert "\n" not in caught.value.detail
    return caught.value


def test_refuses_with_every_flaw_in_its_place() -> None:
    rules = [
        rule("a", YES, where("data.x", "like\n")),
        rule("", where("nope", "gt", [])),
        rule("a", where("data[", "eq"), enabled=False),
        rule("b", YES),
        rule("a"),
    ]
    error = rejection(rules)
    assert [flaw.pointer for flaw in error.flaws] == [
        "/rules/1/id",
        "/rules/2/id",
        "/rules/4/id",
        "/rules/0/conditions/1/operator",
        "/rules/1/conditions/0/field",
        "/rules/1/conditions/0/value",
        "/rules/2/conditions/0/field",
    ]
    assert error.flaws[1].detail == "the id of a rule must be unique; this is that of /rules/0"
    assert error.detail == "the rules are invalid: /rules/1/id: the id of a rule must not be empty (and 6 more)"


def test_the_summary_of_a_single_flaw() -> None:
    error = rejection([rule("")])
    assert error.flaws == (Flaw("/rules/0/id", "the id of a rule must not be empty"),)
    assert error.detail == "the rules are invalid: /rules/0/id: the id of a rule must not be empty"


def test_the_number_of_rules_is_bounded() -> None:
    rules = [rule(f"r{i}", NO) for i in range(MAX_RULES)]
    assert compile_rules(rules).decide(VIEW) is None
    rules += [rule(""), rule("")]
    assert rejection(rules).flaws == (Flaw("/rules", "at most 100 rules are allowed, these are 102"),)


def test_the_number_of_conditions_is_bounded() -> None:
    conditions = [YES] * MAX_CONDITIONS
    assert compile_rules([rule("r", *conditions)]).decide(VIEW) == "r"
    conditions += [where("nope", "eq")]
    error = rejection([rule("r", *conditions)])
    assert error.flaws == (Flaw("/rules/0/conditions", "at most 100 conditions are allowed, these are 101"),)


A = where("event_type", "eq", "a")
AB = where("event_type", "in", ["a", "b"])
BC = where("event_type", "in", ["b", "c"])


@pytest.mark.parametrize(
    ("rules", "event_types"),
    [
        ([], None),
        ([rule("1")], None),
        ([rule("1", YES)], None),
        ([rule("1", A)], {"a"}),
        ([rule("1", YES, A)], {"a"}),
        ([rule("1", AB)], {"a", "b"}),
        ([rule("1", AB, BC)], {"b"}),
        ([rule("1", A, BC)], set()),
        ([rule("1", A), rule("2", BC)], {"a", "b", "c"}),
        ([rule("1", A), rule("2", YES)], None),
        ([rule("1", A), rule("2", YES, enabled=False)], {"a"}),
        ([rule("1", YES, enabled=False)], set()),
        ([rule("1", where("event_type", "in", []))], set()),
        ([rule("1", where("event_type", "eq", "a", negate=True))], None),
        ([rule("1", where("event_type", "ne", "a"))], None),
        ([rule("1", where("event_type", "starts_with", "a"))], None),
        ([rule("1", where("event_type", "eq", 1))], None),
        ([rule("1", where("event_type", "in", ["a", 1]))], None),
        ([rule("1", where("data.event_type", "eq", "a"))], None),
        ([rule("1", where("source", "eq", "a"))], None),
    ],
)
def test_event_types_are_all_that_could_match(rules: list[Rule], event_types: object) -> None:
    assert compile_rules(rules).event_types == event_types


def test_sources_are_all_that_could_match() -> None:
    compiled = compile_rules([rule("1", A, where("source", "eq", "s")), rule("2", where("source", "in", ["t"]))])
    assert isinstance(compiled, RuleSet)
    assert compiled.sources == frozenset({"s", "t"})
    assert compiled.event_types is None


def test_the_document_is_strict_and_has_defaults() -> None:
    assert msgspec.json.decode('{"id": "r"}', type=Rule) == Rule(id="r", name=None, enabled=True, priority=0, conditions=None)
    for text in ("{}", '{"id": "r", "condition": []}', '{"id": "r", "priority": "high"}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(text, type=Rule)
