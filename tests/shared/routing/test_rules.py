"""Rules: which one decides, what is refused and where, and what an index may rely on."""

from typing import Any

import msgspec
import pytest
from hypothesis import given

from tas_mcp.errors import Flaw, Rejected
from tas_mcp.messages import Event
from tas_mcp.routing import Condition, Rule, Transform, View, compile_rules
from tas_mcp.routing.conditions import MAX_CONDITIONS
from tas_mcp.routing.rules import MAX_RULES
from tests.shared.routing.reference import a_view, an_event, data_of, decide, events, rule_lists

VIEW = a_view({"amount": 100})


def where(field: str, operator: str, value: Any = None, *, negate: bool = False) -> Condition:
    return Condition(field=field, operator=operator, value=value, negate=negate)


def rule(id: str, *conditions: Condition, **more: Any) -> Rule:
    return Rule(id=id, conditions=list(conditions), **more)


YES = where("data.amount", "eq", 100)
NO = where("data.amount", "eq", 1)


def decided(rules: list[Rule], view: View = VIEW) -> str | None:
    """The id of the rule that decides; that ``explain`` tells the same is seen to here."""
    compiled = compile_rules(rules)
    decision = compiled.decide(view)
    told = compiled.explain(view)
    assert told["matched"] is (decision is not None)
    assert told["rule_id"] == (decision and decision.id)
    return decision and decision.id


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
    assert decided(rules) == decision


@given(rules=rule_lists(), event=events())
def test_decides_as_a_plain_evaluation_does(rules: list[Rule], event: Event) -> None:
    assert decided(rules, View(event)) == decide(rules, event)


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
    assert decided(rules) is None
    rules += [rule(""), rule("")]
    assert rejection(rules).flaws == (Flaw("/rules", "at most 100 rules are allowed, these are 102"),)


def test_the_number_of_conditions_is_bounded() -> None:
    conditions = [YES] * MAX_CONDITIONS
    assert decided([rule("r", *conditions)]) == "r"
    conditions += [where("nope", "eq")]
    error = rejection([rule("r", *conditions)])
    assert error.flaws == (Flaw("/rules/0/conditions/100", "at most 100 conditions are allowed in a rule"),)


def test_the_document_is_strict_and_has_defaults() -> None:
    assert msgspec.json.decode('{"id": "r"}', type=Rule) == Rule(id="r", name=None, enabled=True, priority=0, conditions=None)
    for text in ("{}", '{"id": "r", "condition": []}', '{"id": "r", "priority": "high"}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(text, type=Rule)


def test_the_transform_of_a_rule_is_compiled_with_it() -> None:
    given = Transform(add_fields={"data.x": 1})
    decision = compile_rules([Rule(id="a", transform=given), Rule(id="b")]).decide(a_view({}))
    assert decision is not None
    assert decision.reshape is not None
    assert data_of(decision.reshape(a_view({})).event) == {"x": 1}
    bad = Transform(add_fields={"event_id": 1, "data.x": "{{"}, jsonata="(")
    with pytest.raises(Rejected) as caught:
        compile_rules([Rule(id="a"), Rule(id="b", sample=-1, transform=bad)])
    assert [flaw.pointer for flaw in caught.value.flaws] == [
        "/rules/1/sample",
        "/rules/1/transform/add_fields/event_id",
        "/rules/1/transform/add_fields/data.x",
        "/rules/1/transform/jsonata",
    ]


EVENTS = [View(an_event(event_id=f"e-{number}")) for number in range(2000)]


def test_a_rule_takes_its_sample_and_the_rest_goes_on() -> None:
    rules = [rule("canary", sample=10), rule("rest")]
    decisions = [decided(rules, view) for view in EVENTS]
    assert decisions == [decided(rules, view) for view in EVENTS]
    assert 140 < decisions.count("canary") < 260
    assert set(decisions) == {"canary", "rest"}


def test_a_larger_sample_keeps_the_events_of_the_smaller() -> None:
    small, large = ({i for i, view in enumerate(EVENTS) if decided([rule("r", sample=n)], view)} for n in (5, 20))
    assert small < large
    assert not any(decided([rule("r", sample=0)], view) for view in EVENTS)


def test_a_sample_is_of_what_matches() -> None:
    assert decided([rule("r", NO, sample=99.999)]) is None


@pytest.mark.parametrize("sample", [-1, 100.5, float("nan")])
def test_a_sample_is_a_percentage(sample: float) -> None:
    assert rejection([rule("r", sample=sample)]).flaws == (Flaw("/rules/0/sample", "must be a percentage from 0 to 100"),)


def test_explains_the_rules_up_to_the_one_that_decides() -> None:
    told = compile_rules([rule("no", NO), rule("off", enabled=False), rule("yes", YES), rule("never", NO)]).explain(VIEW)
    assert [told["matched"], told["rule_id"]] == [True, "yes"]
    assert [(each["rule_id"], each["matched"]) for each in told["rules"]] == [("no", False), ("yes", True)]
    assert [leaf["because"] for leaf in told["rules"][0]["conditions"]] == ["not matched: data.amount is 100, not equal to 1"]
    assert msgspec.json.decode(msgspec.json.encode(told)) == told


def test_explains_what_is_not_a_condition() -> None:
    assert compile_rules([]).explain(VIEW)["because"] == "a target without rules takes all"
    assert compile_rules([rule("off", enabled=False)]).explain(VIEW)["because"] == "not matched: every rule is disabled"
    assert compile_rules([rule("no", NO)]).explain(VIEW)["because"] == "not matched: none of the rules matches"
    assert compile_rules([rule("all")]).explain(VIEW)["rules"][0]["because"] == "a rule without conditions takes all"
    sampled = [compile_rules([rule("r", sample=50)]).explain(view)["rules"][0] for view in EVENTS]
    assert {(each["matched"], each["because"]) for each in sampled} == {
        (True, "matched: the event is in the sample of 50 %"),
        (False, "not matched: the event is not in the sample of 50 %"),
    }
