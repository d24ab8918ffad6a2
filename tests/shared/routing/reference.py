"""Routing done naively, to compare with (no compilation, no index, no fast path); and the makers of rules."""

import json
import re
from datetime import datetime
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import Raw

from tas_mcp.messages import Event
from tas_mcp.routing import MISSING, Condition, Rule, View

ORDERINGS = {"gt": (1,), "gte": (0, 1), "lt": (-1,), "lte": (-1, 0)}
STEPS: dict[str, list[Any]] = {
    "data": [],
    "data.a": ["a"],
    "data.b": ["b"],
    "data.a.b": ["a", "b"],
    "data[0]": [0],
    "data[-1]": [-1],
    "data.a[1]": ["a", 1],
    'data["a"]["x.y"]': ["a", "x.y"],
    "data.a[0].b": ["a", 0, "b"],
}
EACH: dict[str, list[Any]] = {
    "data[*]": ["*"],
    "data.a[*]": ["a", "*"],
    "data[*].a": ["*", "a"],
    "data[*][*]": ["*", "*"],
    "data.a[*].b[0]": ["a", "*", "b", 0],
}
FIELDS = ["event_id", "event_type", "source", "timestamp", "metadata.k", "metadata.x.y", "cloudevent.k", *STEPS]


def an_event(data: Any = None, **attributes: Any) -> Event:
    defaults = {"event_id": "e-1", "event_type": "user.created", "source": "auth", "timestamp": 1703001234}
    return Event(**{"accepted_at": 1, "data": Raw(msgspec.json.encode(data)), **defaults, **attributes})


def a_view(data: Any = None, **attributes: Any) -> View:
    return View(an_event(data, **attributes))


def data_of(event: Event) -> Any:
    value = json.loads(bytes(event.data))
    if isinstance(value, str):
        try:
            inner = json.loads(value)
        except ValueError:
            return value
        return inner if isinstance(inner, dict | list) else value
    return value


def read(field: str, event: Event) -> Any:
    if field.startswith("metadata."):
        return event.metadata.get(field.split(".", 1)[1], MISSING)
    if field.startswith("cloudevent."):
        name = field.split(".", 1)[1]
        return {**event.metadata, **event.cloudevent}.get(name, MISSING)
    if field not in STEPS:
        return getattr(event, field)
    value: Any = data_of(event)
    for step in STEPS[field]:
        if not isinstance(value, dict if isinstance(step, str) else list):
            return MISSING
        try:
            value = value[step]
        except (KeyError, IndexError):
            return MISSING
    return value


def read_each(steps: list[Any], value: Any) -> list[Any]:
    if not steps:
        return [value]
    step, *rest = steps
    if step == "*":
        return [found for item in value for found in read_each(rest, item)] if isinstance(value, list) else []
    try:
        inside = value[step] if isinstance(value, dict if isinstance(step, str) else list) else MISSING
    except (KeyError, IndexError):
        return []
    return [] if inside is MISSING else read_each(rest, inside)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(a: Any, b: Any) -> bool:
    if is_number(a) and is_number(b):
        return bool(a == b)
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


TWINS = {"ne": "eq", "not_in": "in", "not_contains": "contains"}


def globbed(text: str, pattern: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return globbed(text, pattern[1:]) or (bool(text) and globbed(text[1:], pattern))
    literal = pattern[:2] == "\\*"
    if text and (pattern[0] == text[0] or (pattern[0] == "?") or (literal and text[0] == "*")):
        return globbed(text[1:], pattern[1 + literal :])
    return False


def instant(value: Any) -> Any:
    if is_number(value):
        return value
    return datetime.fromisoformat(value).timestamp() if isinstance(value, str) and re.match("[0-9]{4}-.*[Z:]", value) else None


def test_of(operator: str, actual: Any, value: Any) -> bool:
    if operator in TWINS:
        return not test_of(TWINS[operator], actual, value)
    if operator == "eq":
        return same(actual, value)
    if operator == "exists":
        return (actual is not MISSING) == (value is not False)
    if operator in ORDERINGS:
        comparable = (is_number(actual) and is_number(value)) or (isinstance(actual, str) and isinstance(value, str))
        return comparable and (actual > value) - (actual < value) in ORDERINGS[operator]
    if operator == "in":
        return any(same(actual, item) for item in value)
    if operator in {"before", "after"}:
        when, bound = instant(actual), instant(value)
        return when is not None and (when < bound if operator == "before" else when > bound)
    if operator in {"regex", "glob"} and not isinstance(actual, str):
        return False
    if operator == "regex":
        return re.search(value, actual) is not None
    if operator == "glob":
        return globbed(actual, value)
    if operator == "starts_with":
        return isinstance(actual, str) and actual[: len(value)] == value
    if operator == "ends_with":
        return isinstance(actual, str) and (not value or actual[-len(value) :] == value)
    assert operator == "contains"
    if isinstance(actual, str):
        return isinstance(value, str) and value in actual
    return isinstance(actual, list) and any(same(item, value) for item in actual)


def computed(expression: str, event: Event) -> bool:
    value = EXPRESSIONS[expression]
    return value if isinstance(value, bool) else bool(value(event, data_of(event)))


CLOUDEVENTS = {"type": "event_type", "source": "source", "id": "event_id", "time": "timestamp"}


def holds(condition: Condition, event: Event) -> bool:
    if condition.all is not None:
        return all(holds(each, event) for each in condition.all)
    if condition.any is not None:
        return any(holds(each, event) for each in condition.any)
    if condition.not_ is not None:
        return not holds(condition.not_, event)
    for texts, operator in ((condition.exact, "eq"), (condition.prefix, "starts_with"), (condition.suffix, "ends_with")):
        if texts is not None:
            read_as = {CLOUDEVENTS.get(name, f"cloudevent.{name}"): text for name, text in texts.items()}
            return all(test_of(operator, read(field, event), text) for field, text in read_as.items())
    assert condition.operator is not None
    if condition.operator == "cel":
        return computed(condition.value, event) != condition.negate
    assert condition.field is not None
    if condition.field in EACH:
        values = read_each(EACH[condition.field], data_of(event))
        inverted = condition.operator in TWINS or (condition.operator == "exists" and condition.value is False)
        operator = TWINS.get(condition.operator, condition.operator)
        value = True if operator == "exists" else condition.value
        return any(test_of(operator, each, value) for each in values) != (inverted != condition.negate)
    return test_of(condition.operator, read(condition.field, event), condition.value) != condition.negate


def decide(rules: list[Rule], event: Event) -> str | None:
    if not rules:
        return ""
    for priority in sorted({rule.priority for rule in rules}, reverse=True):
        for rule in rules:
            if rule.enabled and rule.priority == priority and all(holds(c, event) for c in rule.conditions or []):
                return rule.id
    return None


# Few and small values, so that what is compared is often equal, or nearly.
texts = st.sampled_from(["", "a", "b", "ab", "x.y", "1", "{}", "[1]", "user.created", "auth", "ü"])
numbers = st.sampled_from([-1, 0, 1, 2, 1703001234, -0.0, 0.5, 1.0, 1e300])
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "x.y"]), inner, max_size=3),
    max_leaves=6,
)
types = st.sampled_from(["user.created", "user.deleted", "a", ""])
sources = st.sampled_from(["auth", "shop", "a"])


@st.composite
def events(draw: st.DrawFn) -> Event:
    data = draw(values)
    if draw(st.booleans()):
        data = json.dumps(data)
    metadata = draw(st.dictionaries(st.sampled_from(["k", "x.y"]), texts, max_size=2))
    timestamp = draw(st.sampled_from([0, 1, 1703001234, "2023-12-19T15:53:54Z", "2023-12-19T15:53:54.5Z"]))
    cloudevent = draw(st.dictionaries(st.just("k"), st.one_of(texts, st.booleans(), st.integers(-1, 2)), max_size=1))
    return an_event(
        data, event_type=draw(types), source=draw(sources), timestamp=timestamp, metadata=metadata, cloudevent=cloudevent
    )


TIMES = [0, 1.5, 1703001234, "2023-12-19T15:53:54Z", "2023-12-19T16:53:54.25+01:00"]
EXPRESSIONS: dict[str, Any] = {
    "event.event_type == 'user.created'": lambda event, _: event.event_type == "user.created",
    "event.data.a == 'ab'": lambda _, data: isinstance(data, dict) and data.get("a") == "ab",
    "event.data.a > 0": lambda _, data: isinstance(data, dict) and is_number(data.get("a")) and data["a"] > 0,
    "event.data": lambda _, data: data is True,
    "event.metadata.k.startsWith('a')": lambda event, _: event.metadata.get("k", "").startswith("a"),
    "event.data.a.exists(x, x == 'a')": lambda _, data: (
        isinstance(data, dict) and isinstance(data.get("a"), list) and "a" in data["a"]
    ),
    "1": False,
}

VALUES = {
    **dict.fromkeys(["eq", "ne", "contains", "not_contains"], values),
    **dict.fromkeys(ORDERINGS, numbers | texts),
    **dict.fromkeys(["in", "not_in"], st.lists(texts, max_size=3) | st.lists(numbers, max_size=3) | st.lists(values, max_size=3)),
    **dict.fromkeys(["starts_with", "ends_with"], texts),
    "regex": st.sampled_from(["a", "^a", "b$", "a.*b|x", "user[.]"]),
    "glob": st.sampled_from(["*", "a*", "*b", "?", "user.*", "*.*d", "[1]", "\\*"]),
    **dict.fromkeys(["before", "after"], st.sampled_from(TIMES)),
    "exists": st.sampled_from([None, True, False]),
}


@st.composite
def leaves(draw: st.DrawFn) -> Condition:
    if draw(st.integers(0, 9)) == 0:
        return Condition(operator="cel", value=draw(st.sampled_from([*EXPRESSIONS])), negate=draw(st.booleans()))
    field = draw(st.sampled_from([*FIELDS, *EACH, "event_type", "source", "timestamp"]))
    operator = draw(st.sampled_from(sorted(VALUES)))
    return Condition(field=field, operator=operator, value=draw(VALUES[operator]), negate=draw(st.booleans()))


dialects = st.dictionaries(st.sampled_from(["type", "source", "id", "time", "k"]), texts, min_size=1, max_size=2)


def conditions() -> st.SearchStrategy[Condition]:
    return st.recursive(
        st.one_of(
            leaves(),
            pins,
            st.builds(Condition, exact=dialects),
            st.builds(Condition, prefix=dialects),
            st.builds(Condition, suffix=dialects),
        ),
        lambda inner: st.one_of(
            st.builds(Condition, all=st.lists(inner, min_size=1, max_size=3)),
            st.builds(Condition, any=st.lists(inner, min_size=1, max_size=3)),
            st.builds(Condition, not_=inner),
        ),
        max_leaves=5,
    )


# What an index can use; mixed in, as chance makes too few of them.
pins = st.builds(
    Condition,
    field=st.sampled_from(["event_type", "source"]),
    operator=st.just("in"),
    value=st.lists(types | sources, min_size=1, max_size=3),
) | st.builds(
    Condition,
    field=st.sampled_from(["event_type", "source"]),
    operator=st.sampled_from(["eq", "starts_with"]),
    value=types | sources | st.sampled_from(["u", "us", "au"]),
)


@st.composite
def rule_lists(draw: st.DrawFn) -> list[Rule]:
    rules = st.builds(
        Rule,
        id=st.just(""),
        enabled=st.sampled_from([True, True, False]),
        priority=st.integers(-1, 1),
        conditions=st.none() | st.lists(conditions(), max_size=3),
    )
    drawn = draw(st.lists(rules, max_size=4))
    for i, rule in enumerate(drawn):
        rule.id = f"r{i}"
    return drawn
