"""Conditions: every operator on every kind of value, and what is refused before it can run."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from tas_mcp.messages import Event
from tas_mcp.routing import OPERATORS, Condition, ConditionError, View, compile_condition
from tas_mcp.routing.conditions import MAX_DEPTH
from tests.shared.routing.reference import a_view, an_event, conditions, events, holds

EVENT = an_event(
    {
        "amount": 100,
        "ratio": 0.5,
        "one": 1,
        "name": "Ann",
        "empty": "",
        "yes": True,
        "no": False,
        "none": None,
        "tags": ["a", "b", 1, True, None, {"x": 1}],
        "ones": [1.0, 2],
        "object": {"a": [1, True]},
    },
    metadata={"tenant": "acme"},
)


def check(field: str, operator: str, value: Any = None, *, event: Event = EVENT) -> bool:
    plain = compile_condition(Condition(field=field, operator=operator, value=value)).holds(View(event))
    negated = compile_condition(Condition(field=field, operator=operator, value=value, negate=True)).holds(View(event))
    assert type(plain) is bool
    assert negated is (not plain)
    return plain


TABLE: list[tuple[str, str, Any, bool]] = [
    ("event_type", "eq", "user.created", True),
    ("event_type", "eq", "user.deleted", False),
    ("timestamp", "gte", 1703001234, True),
    ("timestamp", "gt", "2023", False),
    ("metadata.tenant", "eq", "acme", True),
    ("data.amount", "eq", 100, True),
    ("data.amount", "eq", 100.0, True),
    ("data.amount", "eq", "100", False),
    ("data.one", "eq", True, False),
    ("data.yes", "eq", 1, False),
    ("data.yes", "eq", True, True),
    ("data.no", "eq", 0, False),
    ("data.none", "eq", None, True),
    ("data.absent", "eq", None, False),
    ("data.object", "eq", {"a": [1, True]}, True),
    ("data.object", "eq", {"a": [True, 1]}, False),
    ("data.amount", "ne", 100.0, False),
    ("data.amount", "ne", "100", True),
    ("data.one", "ne", True, True),
    ("data.absent", "ne", 1, True),
    ("data.absent", "ne", None, True),
    ("data.amount", "gt", 99.5, True),
    ("data.amount", "gt", 100, False),
    ("data.amount", "gt", "1", False),
    ("data.yes", "gt", 0, False),
    ("data.none", "lt", 1, False),
    ("data.tags", "gt", 0, False),
    ("data.absent", "lt", 1, False),
    ("data.amount", "gte", 100, True),
    ("data.amount", "gte", 100.1, False),
    ("data.ratio", "lt", 1, True),
    ("data.ratio", "lt", 0.5, False),
    ("data.ratio", "lte", 0.5, True),
    ("data.ratio", "lte", 0, False),
    ("data.name", "gt", "Anm", True),
    ("data.name", "lt", "a", True),
    ("data.name", "lte", 5, False),
    ("data.name", "in", ["Bob", "Ann"], True),
    ("data.name", "in", ["Bob"], False),
    ("data.tags", "in", ["a", "b"], False),
    ("data.amount", "in", [1, 100.0], True),
    ("data.amount", "in", ["100"], False),
    ("data.yes", "in", [1, 2], False),
    ("data.yes", "in", [1, True], True),
    ("data.one", "in", [True, "1"], False),
    ("data.none", "in", ["x", None], True),
    ("data.object", "in", [1, {"a": [1, True]}], True),
    ("data.absent", "in", ["x", None], False),
    ("data.absent", "in", ["x"], False),
    ("data.name", "in", [], False),
    ("data.name", "contains", "nn", True),
    ("data.name", "contains", "", True),
    ("data.name", "contains", "N", False),
    ("data.name", "contains", 1, False),
    ("data.amount", "contains", "1", False),
    ("data.object", "contains", "a", False),
    ("data.absent", "contains", "a", False),
    ("data.tags", "contains", "a", True),
    ("data.tags", "contains", "c", False),
    ("data.tags", "contains", 1, True),
    ("data.tags", "contains", None, True),
    ("data.tags", "contains", False, False),
    ("data.tags", "contains", {"x": 1.0}, True),
    ("data.ones", "contains", 1, True),
    ("data.ones", "contains", True, False),
    ("data.name", "starts_with", "An", True),
    ("data.name", "starts_with", "", True),
    ("data.name", "starts_with", "nn", False),
    ("data.tags", "starts_with", "a", False),
    ("data.absent", "starts_with", "", False),
    ("data.name", "exists", None, True),
    ("data.name", "exists", True, True),
    ("data.name", "exists", False, False),
    ("data.none", "exists", True, True),
    ("data.absent", "exists", True, False),
    ("data.absent", "exists", False, True),
    ("metadata.absent", "exists", None, False),
]


@pytest.mark.parametrize(("field", "operator", "value", "expected"), TABLE)
def test_holds(field: str, operator: str, value: Any, expected: bool) -> None:
    assert check(field, operator, value) is expected


def test_a_timestamp_is_what_the_sender_wrote() -> None:
    assert check("timestamp", "starts_with", "2023-", event=an_event(timestamp="2023-12-19T15:53:54Z"))


def test_the_classic_form_means_the_same() -> None:
    assert check("data.amount", "gt", 100, event=an_event('{"amount": 101}'))


def test_undecodable_data_is_missing() -> None:
    event = msgspec.structs.replace(EVENT, data=msgspec.Raw(b"1e999"))
    assert check("data", "exists", False, event=event)
    assert check("data.amount", "ne", 1, event=event)
    assert not check("data.amount", "gt", 1, event=event)


def test_attributes_leave_the_data_alone() -> None:
    view = a_view({"a": 1})
    compile_condition(Condition(field="event_type", operator="eq", value="x")).holds(view)
    with pytest.raises(AttributeError):
        object.__getattribute__(view, "data")
    assert view.data == {"a": 1}


@pytest.mark.parametrize(
    ("operator", "value", "detail"),
    [
        ("gt", {}, "gt: the value must be a number or a string, not an object"),
        ("gte", None, "gte: the value must be a number or a string, not null"),
        ("lt", True, "lt: the value must be a number or a string, not a boolean"),
        ("lte", [1], "lte: the value must be a number or a string, not an array"),
        ("in", "abc", "in: the value must be a list of what the field may be, not a string"),
        ("in", None, "in: the value must be a list of what the field may be, not null"),
        ("in", [{1}], "in: the value must be a JSON value, not a set"),
        ("starts_with", 5, "starts_with: the value must be a string, not a number"),
        ("exists", 1, "exists: the value must be true (or left out) or false, not a number"),
        ("exists", "true", "exists: the value must be true (or left out) or false, not a string"),
        ("exists", 0, "exists: the value must be true (or left out) or false, not a number"),
        ("eq", {1}, "eq: the value must be a JSON value, not a set"),
        ("ne", b"", "ne: the value must be a JSON value, not a bytes"),
        ("contains", {1}, "contains: the value must be a JSON value, not a set"),
    ],
)
def test_refuses_a_value_that_makes_no_sense(operator: str, value: Any, detail: str) -> None:
    with pytest.raises(ConditionError) as caught:
        compile_condition(Condition(field="data.x", operator=operator, value=value))
    assert caught.value.flaws == (("/value", detail),)
    assert isinstance(caught.value, ValueError)


def test_refuses_an_unknown_operator_and_says_which_there_are() -> None:
    with pytest.raises(ConditionError) as caught:
        compile_condition(Condition(field="data.x", operator="like"))
    assert caught.value.flaws == (("/operator", f"no such operator 'like'; allowed are {', '.join(OPERATORS)}, cel"),)


def test_only_so_many_conditions_are_looked_at() -> None:
    assert [pointer for pointer, _ in flaws(all=[{**LEAF, "operator": "x"}] * 150)][-1:] == ["/all/99"]
    assert len(flaws(all=[LEAF] * 150)) == 1


def test_says_all_that_is_wrong() -> None:
    with pytest.raises(ConditionError, match=r"no such field.*; gt: the value") as caught:
        compile_condition(Condition(field="x", operator="gt"))
    assert [flaw.pointer for flaw in caught.value.flaws] == ["/field", "/value"]


@pytest.mark.parametrize(
    "text", ['{"all": {}}', '{"field": "a", "operator": "eq", "values": 1}', '{"field": 1, "operator": "eq"}']
)
def test_the_document_is_strict(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Condition)


def test_the_document_has_defaults() -> None:
    condition = msgspec.json.decode('{"field": "source", "operator": "exists"}', type=Condition)
    assert condition == Condition(field="source", operator="exists", value=None, negate=False)


def flaws(**condition: Any) -> list[tuple[str, str]]:
    with pytest.raises(ConditionError) as caught:
        compile_condition(msgspec.convert(condition, Condition))
    return [(flaw.pointer, flaw.detail) for flaw in caught.value.flaws]


LEAF = {"field": "source", "operator": "exists"}


@pytest.mark.parametrize(
    ("condition", "pointer", "detail"),
    [
        ({}, "", "a condition is written with one of operator, all, any, not, exact, prefix, suffix; this one has none of them"),
        ({**LEAF, "any": [LEAF]}, "", "a condition is written with one of"),
        ({"field": "source"}, "/operator", "the operator is missing; allowed are eq, "),
        ({"operator": "eq"}, "/field", "the field is missing"),
        ({"field": "source", "operator": "start_with"}, "/operator", "did you mean starts_with?"),
        ({"all": []}, "/all", "must not be empty"),
        ({"any": []}, "/any", "must not be empty"),
        ({"exact": {}}, "/exact", "must not be empty"),
        ({"all": [LEAF], "negate": True}, "/negate", "only a condition with an operator has negate; beside all it means nothing"),
        ({"not": LEAF, "value": 1}, "/value", "only a condition with an operator has value"),
        ({"not": {"any": [LEAF, {"operator": "eq"}]}}, "/not/any/1/field", "the field is missing"),
        ({"prefix": {"type": "a", "": "x"}}, "/prefix/", "the name of the attribute is missing"),
        ({"field": "data.x", "operator": "regex", "value": "a(b"}, "/value", "regex: position 3: missing )"),
        ({"field": "data.x", "operator": "regex", "value": 1}, "/value", "regex: the value must be a string, not a number"),
        ({"field": "data.x", "operator": "ends_with"}, "/value", "ends_with: the value must be a string, not null"),
        ({"field": "data.x", "operator": "before", "value": "soon"}, "/value", "before: the value must be a time (RFC 3339"),
        ({"field": "data[*]x", "operator": "exists"}, "/field", "position 7"),
        ({"operator": "cel", "value": 1}, "/value", "cel: the value must be an expression in a string, not a number"),
        ({"operator": "cel", "value": "1 +"}, "/value", "cel: line 1, column 4: Syntax error"),
        ({"operator": "cel", "value": "true", "field": "data"}, "/field", "an expression has no field; it looks at event"),
    ],
)
def test_says_what_is_wrong_and_where(condition: dict[str, Any], pointer: str, detail: str) -> None:
    [(at, told)] = flaws(**condition)
    assert at == pointer
    assert detail in told


def test_the_depth_is_bounded() -> None:
    condition: dict[str, Any] = LEAF
    for _ in range(MAX_DEPTH - 1):
        condition = {"not": condition}
    assert compile_condition(msgspec.convert(condition, Condition)).holds(View(EVENT)) is False
    assert flaws(any=[condition]) == [("/any/0" + "/not" * (MAX_DEPTH - 1), "at most 8 levels of conditions are allowed")]


def why(event: Event = EVENT, **condition: Any) -> Any:
    return compile_condition(msgspec.convert(condition, Condition)).why(View(event))


@pytest.mark.parametrize(
    ("field", "operator", "value", "because"),
    [
        ("data.amount", "gt", 99, "matched: data.amount is 100, greater than 99"),
        ("data.amount", "gt", 100, "not matched: data.amount is 100, not greater than 100"),
        ("data.name", "gt", 100, "not matched: data.name is a string, not a number"),
        ("data.absent", "gt", 100, "not matched: data.absent is missing"),
        ("data.absent", "ne", 100, "matched: data.absent is missing"),
        ("data.amount", "ne", "100", "matched: data.amount is a number, not a string"),
        ("data.amount", "ne", 100, "not matched: data.amount is 100, equal to 100"),
        ("data.name", "not_in", ["Ann"], 'not matched: data.name is "Ann", one of ["Ann"]'),
        ("data.yes", "in", [1, "a"], "not matched: data.yes is a boolean, not a number or a string"),
        ("data.yes", "in", [], "not matched: data.yes is true, not one of []"),
        ("data.amount", "contains", "1", "not matched: data.amount is a number, not a string or an array"),
        ("data.name", "contains", 1, "not matched: data.name is a string, not an array"),
        ("data.none", "exists", None, "matched: data.none is null, present"),
        ("data.name", "exists", False, 'not matched: data.name is "Ann", present'),
        ("data.name", "glob", "B*", 'not matched: data.name is "Ann", not matching "B*"'),
        ("data.name", "after", 1, 'not matched: data.name is "Ann", not a time'),
        ("data.yes", "after", 1, "not matched: data.yes is a boolean, not a time"),
        ("timestamp", "after", 1, "matched: timestamp is 1703001234, after 1"),
        (
            "timestamp",
            "before",
            "2023-01-01T00:00:00Z",
            'not matched: timestamp is 1703001234, not before "2023-01-01T00:00:00Z"',
        ),
        ("data.tags[*]", "eq", "b", 'matched: of data.tags[*], "b" is equal to "b"'),
        ("data.ones[*]", "gt", 5, "not matched: of data.ones[*], none of the 2 values is greater than 5"),
        ("data.tags[*].x", "gt", 5, "not matched: data.tags[*].x is 1, not greater than 5"),
        ("data.tags[*].y", "ne", 5, "matched: data.tags[*].y is missing"),
        ("data.tags[*]", "not_contains", "z", 'matched: of data.tags[*], none of the 6 values is containing "z"'),
    ],
)
def test_tells_why_in_a_sentence(field: str, operator: str, value: Any, because: str) -> None:
    told = why(field=field, operator=operator, value=value)
    assert told["because"] == because
    assert told["matched"] is because.startswith("matched")


@pytest.mark.parametrize(
    ("expression", "because"),
    [
        ("event.data.amount > 99", "matched: the expression is true"),
        ("event.data.amount < 99", "not matched: the expression is false"),
        ("event.data.amount", "not matched: the expression gives a number, not a boolean"),
        ("event.data.absent > 1", "not matched: the expression failed: there is no 'absent'"),
        ("event.data.name > 1", "not matched: the expression failed: No such overload"),
    ],
)
def test_tells_why_of_an_expression(expression: str, because: str) -> None:
    told = why(operator="cel", value=expression)
    assert told["because"].startswith(because)
    assert why(operator="cel", value=expression, negate=True)["matched"] is not told["matched"]


def test_a_leaf_tells_what_it_saw_and_what_was_asked() -> None:
    assert why(field="data.amount", operator="lt", value=100, negate=True) == {
        "field": "data.amount", "operator": "lt", "value": 100, "negate": True, "matched": True, "saw": 100,
        "because": "matched: data.amount is 100, not less than 100",
    }  # fmt: skip
    assert "saw" not in why(field="data.absent", operator="exists")
    long = why(an_event("x" * 100_000), field="data", operator="eq", value="y" * 100_000)
    assert len(long["because"]) < 250
    assert long["saw"] == '"' + "x" * 252 + "..."


def test_the_tree_has_the_form_of_the_conditions() -> None:
    told = why(any=[{"not": LEAF}, {"all": [LEAF, {"exact": {"type": "a", "tenant": "acme"}}]}])
    assert [told["matched"], told["any"][0]["matched"], told["any"][0]["not"]["matched"]] == [False, False, True]
    exact = told["any"][1]["all"][1]
    assert [(leaf["field"], leaf["matched"]) for leaf in exact["all"]] == [("event_type", False), ("cloudevent.tenant", True)]


@pytest.mark.parametrize("number", range(1, 6))
def test_each_of_any_number_of_conditions_counts(number: int) -> None:
    leaves = [Condition(field="data.one", operator="eq", value=1) for _ in range(number)]
    wrong = [Condition(field="data.one", operator="eq", value=2)] * number
    assert compile_condition(Condition(all=leaves)).holds(View(EVENT))
    assert not compile_condition(Condition(any=wrong)).holds(View(EVENT))
    for i in range(number):
        one_wrong = [Condition(field="data.one", operator="eq", value=2 if each == i else 1) for each in range(number)]
        one_right = [Condition(field="data.one", operator="eq", value=1 if each == i else 2) for each in range(number)]
        assert not compile_condition(Condition(all=one_wrong)).holds(View(EVENT))
        assert compile_condition(Condition(any=one_right)).holds(View(EVENT))


@settings(max_examples=500)
@given(event=events(), condition=conditions())
def test_holds_as_a_plain_evaluation_does(event: Event, condition: Condition) -> None:
    node, view, expected = compile_condition(condition), View(event), holds(condition, event)
    assert node.holds(view) is expected
    assert node.why(view)["matched"] is expected
