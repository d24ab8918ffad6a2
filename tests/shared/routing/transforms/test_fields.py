"""Renaming, removing and adding fields."""

import json
from copy import deepcopy
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from tas_mcp.messages import Event, webhook_id
from tas_mcp.routing import View
from tas_mcp.routing.transforms import Transform, TransformFailed, compile_transform
from tests.shared.routing.reference import STEPS, data_of, events, values
from tests.shared.routing.transforms.rig import ORDER, an_order, data, failure, flaws, transformed


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data.tier": "gold"}, {**ORDER, "tier": "gold"}),
        ({"data.amount": 1}, {**ORDER, "amount": 1}),
        ({"data.a.b.c": [1]}, {**ORDER, "a": {"b": {"c": [1]}}}),
        ({"data.null.x": 1}, {**ORDER, "null": {"x": 1}}),
        ({"data.items[0].n": 9}, {**ORDER, "items": [{"sku": "a", "n": 9}, {"sku": "b", "n": 3}]}),
        ({"data.items[-1]": None}, {**ORDER, "items": [{"sku": "a", "n": 2}, None]}),
        ({'data["x.y"]': 1}, {**ORDER, "x.y": 1}),
        ({"data": {"all": "new"}}, {"all": "new"}),
    ],
)
def test_adding(changes: dict[str, Any], expected: Any) -> None:
    assert data(add_fields=changes) == expected


def test_adding_to_an_event_without_data() -> None:
    assert data(Event(event_id="e", event_type="t", source="s", timestamp=0, accepted_at=0), add_fields={"data.a.b": 1}) == {
        "a": {"b": 1}
    }


def test_metadata_and_event_type() -> None:
    event = transformed(add_fields={"metadata.tier": "gold", "event_type": "order.big"}, remove_fields=["metadata.k"]).event
    assert (event.event_type, event.metadata) == ("order.big", {"tier": "gold"})


@pytest.mark.parametrize(
    ("field", "why"),
    [
        ("data.amount.x", "a number has no member 'x'"),
        ("data.items.x", "an array has no member 'x'"),
        ("data.items[2]", "an array of 2 has no element [2]"),
        ("data.items[-3]", "an array of 2 has no element [-3]"),
        ("data.user[0]", "an object has no element [0]"),
        ("data.new[0]", "what is missing has no element [0]"),
    ],
)
def test_what_cannot_be_written_fails(field: str, why: str) -> None:
    assert failure(add_fields={"data.fine": 1, field: 1}) == f"add_fields: {field} cannot be written: {why}"


def test_removing() -> None:
    gone = data(
        remove_fields=["data.user.vip", "data.items[0]", "data.missing.x", "data.amount.x", "data.none[0]", "metadata.no"]
    )
    assert gone == {**ORDER, "user": {"name": "Ann"}, "items": [{"sku": "b", "n": 3}]}
    assert data(remove_fields=["data"]) is None


def test_renaming() -> None:
    moved = data(rename_fields={"data.user.name": "data.customer.name", "data.missing": "data.x", "data.amount": "data.user"})
    assert moved == {"customer": {"name": "Ann"}, "user": 150, **{key: ORDER[key] for key in ("items", "none", "null")}}
    assert data(rename_fields={"data.amount": "data.user", "data.user": "data.amount"})["amount"] == ORDER["user"]
    assert transformed(rename_fields={"data.user.name": "metadata.user"}).event.metadata == {"k": "v", "user": "Ann"}
    assert data(rename_fields={"metadata.k": "data.k"})["k"] == "v"


def test_renaming_what_is_no_string_to_metadata_fails() -> None:
    why = "rename_fields: data.amount cannot become metadata.x: it takes a string, not a number"
    assert failure(rename_fields={"data.amount": "metadata.x"}) == why


def test_the_order_is_rename_remove_add() -> None:
    steps = {"add_fields": {"data.c": "{{ event.data.b }}"}, "remove_fields": ["data.a"], "rename_fields": {"data.a": "data.b"}}
    assert data(an_order({"a": 1}), **steps) == {"b": 1, "c": 1}


def test_data_that_is_not_touched_keeps_its_bytes() -> None:
    event = msgspec.structs.replace(an_order(), data=Raw(b'{"a" : 1.00}'))
    assert bytes(transformed(event, add_fields={"metadata.x": "y"}).event.data) == b'{"a" : 1.00}'
    assert bytes(transformed(event, remove_fields=["data.b"]).event.data) == b'{"a" : 1.00}'


def test_data_in_a_string_is_what_it_holds() -> None:
    assert data(an_order('{"a": 1}'), add_fields={"data.b": 2}) == {"a": 1, "b": 2}


def test_data_that_cannot_be_read_fails_only_where_it_is_needed() -> None:
    event = msgspec.structs.replace(an_order(), data=Raw(b'{"a": 1e999}'))
    assert transformed(event, add_fields={"metadata.x": "y"}).event.data == event.data
    for step in ({"add_fields": {"data.b": 1}}, {"jsonata": "a"}, {"template": "{{ event.data.a }}"}):
        assert "the data cannot be read" in failure(event, **step)


def test_what_must_not_be_written_is_refused_with_the_reason() -> None:
    identity = {"event_id": 1, "source": "x", "timestamp": 0}
    found = flaws(
        add_fields={**identity, "metadata.n": 1, "data[*].x": 1, "data.a[": 1, "nonsense": 1}, remove_fields=["event_type"]
    )
    assert set(found) == {
        *(f"/add_fields/{field}" for field in (*identity, "metadata.n", "data[*].x", "data.a[", "nonsense")),
        "/remove_fields/0",
    }
    assert "receivers recognize an event by its event_id (webhook-id is made from it)" in found["/add_fields/event_id"]
    assert "every event has an event_type" in found["/remove_fields/0"]
    assert set(flaws(rename_fields={"source": "data.x", "data.a/b": "event_id", "event_type": "data.t"})) == {
        "/rename_fields/source",
        "/rename_fields/data.a~1b",
        "/rename_fields/event_type",
    }


def test_the_number_of_fields_is_bounded() -> None:
    assert set(flaws(add_fields={f"data.a{i}": 1 for i in range(101)})) == {"/add_fields"}
    assert flaws(remove_fields=[f"data.a{i}" for i in range(100)]) == {}


@pytest.mark.parametrize("value", ["", "x" * 256, "a\nb"])
def test_an_event_type_that_cannot_be_fails(value: str) -> None:
    assert "an event_type is 1 to 255 bytes" in failure(an_order({"t": value}), add_fields={"event_type": "{{ event.data.t }}"})


# For any event and fields: as a naive reference does it, and without a trace on the input.

fields = st.sampled_from([*STEPS, "metadata.k", "metadata.x.y"])
transforms = st.builds(
    Transform,
    rename_fields=st.none() | st.dictionaries(fields, fields, max_size=2),
    remove_fields=st.none() | st.lists(fields, max_size=2),
    add_fields=st.none() | st.dictionaries(st.sampled_from(list(STEPS)), values, max_size=2),
)


class Blocked(Exception):
    pass


def steps_of(field: str) -> list[Any]:
    return ["metadata", field.removeprefix("metadata.")] if field.startswith("metadata.") else ["data", *STEPS[field]]


def take(tree: Any, steps: list[Any], *, keep: bool = False) -> list[Any]:
    """Take a value out of a tree, in place: a list of it, or an empty one."""
    for step in steps[:-1]:
        if not isinstance(tree, dict if isinstance(step, str) else list):
            return []
        try:
            tree = tree[step]
        except (KeyError, IndexError):
            return []
    if not isinstance(tree, dict if isinstance(steps[-1], str) else list):
        return []
    try:
        return [tree[steps[-1]]] if keep else [tree.pop(steps[-1])]
    except (KeyError, IndexError):
        return []


def put(tree: Any, steps: list[Any], value: Any) -> None:
    for step, following in pairwise(steps):
        if not isinstance(tree, dict if isinstance(step, str) else list):
            raise Blocked
        try:
            if isinstance(following, str) and (dict(tree).get(step) if isinstance(step, str) else tree[step]) is None:
                tree[step] = {}
            tree = tree[step]
        except (KeyError, IndexError):
            raise Blocked from None
    if not isinstance(tree, dict if isinstance(steps[-1], str) else list):
        raise Blocked
    try:
        tree[steps[-1]] = value
    except IndexError:
        raise Blocked from None


def naive(transform: Transform, event: Event) -> tuple[Any, dict[str, str]]:
    tree = {"data": deepcopy(data_of(event)), "metadata": dict(event.metadata)}
    taken = []
    for old, new in (transform.rename_fields or {}).items():
        taken += [(new, value) for value in take(tree, steps_of(old))]
        tree.setdefault("data", None)
    for new, value in taken:
        if new.startswith("metadata.") and not isinstance(value, str):
            raise Blocked
        put(tree, steps_of(new), value)
    for field in transform.remove_fields or ():
        take(tree, steps_of(field))
        tree.setdefault("data", None)
    for field, value in (transform.add_fields or {}).items():
        put(tree, steps_of(field), deepcopy(value))
    stored = msgspec.structs.replace(event, data=Raw(json.dumps(tree["data"]).encode()))
    return data_of(stored), tree["metadata"]  # a string that holds an object is that object, wherever it came from


@given(transforms, events())
def test_fields_change_as_in_a_naive_reference(transform: Transform, event: Event) -> None:
    view, before = View(event), deepcopy(event)
    seen = deepcopy(view.data)
    try:
        expected = naive(transform, event)
    except Blocked:
        with pytest.raises(TransformFailed):
            compile_transform(transform)(view)
    else:
        output = compile_transform(transform)(view).event
        assert (data_of(output), output.metadata) == expected
        assert (output.event_id, output.source, webhook_id(output)) == (event.event_id, event.source, webhook_id(event))
    assert event == before
    assert view.data == seen
