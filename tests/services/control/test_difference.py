"""What changed between two documents: named by place, told once, and with nothing secret in it."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.difference import NOTHING, Side, difference

Change = tuple[str, str]


def changes(before: Any, after: Any) -> list[dict[str, Any]]:
    return difference(Side(before, before), Side(after, after))


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({}, {}, []),
        ({"a": 1, "b": [1, {"c": 2}]}, {"a": 1, "b": [1, {"c": 2}]}, []),
        ({"a": 1}, {"a": 2}, [("replace", "/a")]),
        ({"a": 1}, {"a": True}, [("replace", "/a")]),
        ({"a": {"x": 1}}, {"a": None}, [("replace", "/a")]),
        ({"a": 1}, {"b": 1}, [("remove", "/a"), ("add", "/b")]),
        ({"a/b": {"~": 1}}, {"a/b": {"~": 2}}, [("replace", "/a~1b/~0")]),
        ([1, 2, 3], [0, 1, 2, 3], [("add", "/0")]),
        ([1, 2, 3], [1, 3], [("remove", "/1")]),
        ([1, 2, 3], [1, 2, 3, 4, 5], [("add", "/3"), ("add", "/4")]),
        ([{"a": 1}, 2], [{"a": 3}, 2], [("replace", "/0/a")]),
        ([1, 1], [1], [("remove", "/1")]),
    ],
)
def test_changes_by_place(before: Any, after: Any, found: list[Change]) -> None:
    assert [(each["op"], each["pointer"]) for each in changes(before, after)] == found


def test_a_change_says_what_was_and_what_is() -> None:
    assert changes({"a": 1, "b": 2}, {"a": 3, "c": 4}) == [
        {"op": "replace", "pointer": "/a", "before": 1, "after": 3},
        {"op": "remove", "pointer": "/b", "before": 2},
        {"op": "add", "pointer": "/c", "after": 4},
    ]


def test_a_secret_that_changed_is_seen_to_have_changed_and_nothing_more() -> None:
    before = Side({"key": "old secret", "other": "same"}, {"key": "***", "other": "***"})
    after = Side({"key": "new secret", "other": "same"}, {"key": "***", "other": "***"})
    assert difference(before, after) == [{"op": "replace", "pointer": "/key", "before": "***", "after": "***"}]


def test_a_document_that_came_or_went() -> None:
    one = Side({"key": "secret"}, {"key": "***"})
    assert difference(NOTHING, one) == [{"op": "add", "pointer": "", "after": {"key": "***"}}]
    assert difference(one, NOTHING) == [{"op": "remove", "pointer": "", "before": {"key": "***"}}]
    assert difference(NOTHING, NOTHING) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text("ab/~", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_the_changes_lead_from_one_document_to_the_other(before: Any, after: Any) -> None:
    """Removals from the end, then the rest in order, as a JSON patch would have them."""
    found = changes(before, after)
    document = {"": copy.deepcopy(before)}
    for each in [*(c for c in reversed(found) if c["op"] == "remove"), *(c for c in found if c["op"] != "remove")]:
        apply(document, each)
    assert repr_of(document[""]) == repr_of(after)


def apply(document: dict[str, Any], change: dict[str, Any]) -> None:
    *path, last = [step.replace("~1", "/").replace("~0", "~") for step in ("" + change["pointer"]).split("/")]
    at: Any = document
    for step in path:
        at = at[int(step)] if isinstance(at, list) else at[step]
    key: Any = int(last) if isinstance(at, list) else last
    if change["op"] == "remove":
        assert at.pop(key) == change["before"]
    elif change["op"] == "add" and isinstance(at, list):
        at.insert(key, change["after"])
    else:
        at[key] = change["after"]


def repr_of(value: Any) -> Any:
    """Tells true from 1, and does not mind the order of members."""
    if isinstance(value, dict):
        return {key: repr_of(each) for key, each in value.items()}
    return [repr_of(each) for each in value] if isinstance(value, list) else repr(value)
