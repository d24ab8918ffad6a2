"""Schemas of event types: which one holds, what is refused when it is saved, and what it finds wrong with data."""

import re
import time
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tas_mcp import schemas
from tas_mcp.errors import Rejected
from tas_mcp.schemas import LOCATED_BYTES, MAX_FLAWS, Schema, SchemaBook, SchemaDocument, check, decode, matches

ORDER = {
    "type": "object",
    "required": ["id", "amount"],
    "properties": {"amount": {"type": "number", "minimum": 0}, "a/b": {"type": "string"}, "at": {"format": "date-time"}},
}


def schema(name: str, inner: Any = True, **changes: Any) -> Schema:
    return check(name, {"schema": inner, **changes})


def refused(document: Any, name: str = "order.created") -> Rejected:
    with pytest.raises(Rejected) as caught:
        check(name, document)
    assert caught.value.code == "INVALID_SCHEMA"
    return caught.value


# Which schema holds.


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("user.created", ["user.created"], ["user", "user.created.x", "xuser.created", "user.Created"]),
        ("user.*", ["user.created", "user."], ["user", "user.a.b", "users.a"]),
        ("user.*.done", ["user.a.done"], ["user.done", "user.a.b.done"]),
        ("user.cre*", ["user.cre", "user.created"], ["user.cr", "user.cre.d"]),
        ("*ed.a*z", ["ed.az", "created.abz"], ["e.az", "ed.a"]),
        ("a*a", ["aa", "aba"], ["a"]),
        ("user.**", ["user.a", "user.a.b.c", "user."], ["user", "users.a"]),
        ("**", ["a", "a.b", "*"], []),
        ("*", ["a", ""], ["a.b"]),
        ("a+.(b)", ["a+.(b)"], ["aa.b"]),
    ],
)
def test_a_pattern_matches_token_by_token(name: str, yes: list[str], no: list[str]) -> None:
    assert [each for each in yes if not matches(name, each)] == []
    assert [each for each in no if matches(name, each)] == []


def test_an_exact_name_wins_then_the_more_specific_pattern() -> None:
    falling = ["user.created", "user.created.*", "user.cre*", "user.c*", "user.*", "user.**", "*.created", "*.**", "**"]
    book = SchemaBook(schema(name) for name in reversed(falling))
    types = {"user.created": 0, "user.created.x": 1, "user.crept": 2, "user.closed": 3, "user.x": 4, "user.x.y": 5}
    types |= {"order.created": 6, "order.x": 7, "order": 8}
    assert {each: found.name for each in types if (found := book.find(each))} == {each: falling[at] for each, at in types.items()}


def test_an_empty_book_is_false_and_finds_nothing() -> None:
    assert not SchemaBook()
    assert SchemaBook().find("a") is None
    assert SchemaBook([schema("a")])
    assert SchemaBook([schema("a.*")])
    assert SchemaBook([schema("a.*")]).find("a") is None


token = st.text("ab", max_size=3)
glob = st.tuples(token, token).map("*".join)
names = st.lists(token | glob, min_size=1, max_size=3).map(".".join).filter(bool) | st.just("**")
rest = names.map(lambda name: name if "**" in name else name + ".**")


def naive(name: str, event_type: str) -> bool:
    """The same by a regular expression."""
    parts = [r"[^.]*".join(map(re.escape, part.split("*"))) for part in name.split(".")]
    if name.rsplit(".", maxsplit=1)[-1] == "**":
        parts[-1] = r".*"
    return re.fullmatch(r"\.".join(parts), event_type) is not None


@given(st.lists(names | rest, max_size=8), st.lists(token, min_size=1, max_size=4).map(".".join))
@example(["a.**", "a.*", "*.a"], "a.a")
def test_what_is_found_matches_and_no_other_order_finds_another(given_names: list[str], event_type: str) -> None:
    assert [matches(name, event_type) for name in given_names] == [naive(name, event_type) for name in given_names]
    found = SchemaBook(map(schema, given_names)).find(event_type)
    again = SchemaBook(map(schema, reversed(given_names))).find(event_type)
    fitting = [name for name in given_names if naive(name, event_type)]
    assert (found and found.name) == (again and again.name)
    assert (found.name in fitting) if found else not fitting
    if event_type in given_names:
        assert found is not None
        assert found.name == event_type


# What is refused when it is saved.


@pytest.mark.parametrize(
    ("document", "pointer", "detail"),
    [
        ({}, "/schema", "missing required"),
        ([], "", "object"),
        ({"schema": []}, "/schema", "array"),
        ({"schema": True, "mode": "loud"}, "/mode", "loud"),
        ({"schema": True, "more": 1}, "/more", "unknown"),
        ({"schema": {"type": "nope"}}, "/schema/type", "nope"),
        ({"schema": {"properties": {"a/b": {"minimum": "x"}}}}, "/schema/properties/a~1b/minimum", '"x"'),
        ({"schema": {"properties": {"a/b": {"pattern": "("}}}}, "/schema/properties/a~1b/pattern", "regex"),
        ({"schema": {"pattern": "(?=a)b"}}, "/schema/pattern", "look-around"),
        ({"schema": {"pattern": "(a{1000}){1000}"}}, "/schema/pattern", "size limit"),
        ({"schema": {"$ref": "http://127.0.0.1:1/s.json"}}, "/schema", "nothing is fetched"),
        ({"schema": {"$ref": "file:///etc/passwd"}}, "/schema", "nothing is fetched"),
        ({"schema": {"$ref": "#/$defs/none"}}, "/schema", "/$defs/none"),
        ({"schema": {"$schema": "http://example.com/own"}}, "/schema", "example.com/own"),
        ({"schema": {"$schema": 5}}, "/schema/$schema", "5"),
        ({"schema": {"const": "x" * 262_144}}, "/schema", "the limit is 262144"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_schema(document: Any, pointer: str, detail: str) -> None:
    error = refused(document)
    assert error.flaws[0].pointer == pointer
    assert detail in error.flaws[0].detail
    assert pointer in str(error)


def test_all_flaws_of_a_schema_are_told_at_once() -> None:
    error = refused({"schema": {"minimum": "x", "maximum": "y", "minLength": -1, "properties": {"a": 5}}})
    assert {flaw.pointer for flaw in error.flaws} == {
        "/schema/minimum", "/schema/maximum", "/schema/minLength", "/schema/properties/a",
    }  # fmt: skip
    assert "and 1 more" in str(error)


def test_a_schema_nested_too_deep() -> None:
    nested: dict[str, Any] = {}
    for _ in range(800):
        nested = {"not": nested}
    assert "limit" in refused({"schema": nested}).flaws[0].detail
    text = b'{"schema":' + b'{"not":' * 5000 + b"{}" + b"}" * 5001
    with pytest.raises(Rejected, match="deep"):
        decode("a", 1, text)


@pytest.mark.parametrize("name", ["", "a" * 256, "a\nb", "a**", "**.a", "a.b**c", "a*b*c", "a.***"])
def test_what_is_no_name(name: str) -> None:
    assert "name" in refused({"schema": True}, name).flaws[0].detail
    with pytest.raises(Rejected):
        decode(name, 1, b'{"schema": true}')


def test_a_stored_document() -> None:
    found = decode("a.*", 7, b'{"schema": {"type": "object"}, "mode": "warn"}')
    assert (found.name, found.revision, found.enforced) == ("a.*", 7, False)
    assert found.document == SchemaDocument({"type": "object"}, "warn")
    for broken in (b"", b"{", b'{"schema": {"type": "nope"}}', b"\xff"):
        with pytest.raises(Rejected, match="not valid"):
            decode("a", 1, broken)


def test_an_older_draft_is_read_by_its_own_rules() -> None:
    old = schema("a", {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]})
    assert old.flaws([1], 3)
    refused({"schema": {"items": [{"type": "string"}]}})


# What is wrong with data.


def test_flaws_have_pointers_into_the_event() -> None:
    order = schema("order.created", ORDER)
    assert order.flaws({"id": 1, "amount": 5, "at": "2024-01-01T00:00:00Z"}, 50) == []
    found = order.flaws({"amount": -1, "a/b": 1, "at": "soon"}, 50)
    assert {flaw.pointer for flaw in found} == {"/data", "/data/amount", "/data/a~1b", "/data/at"}
    error = schemas.violation(order, sorted(found))
    assert (error.code, len(error.flaws)) == ("SCHEMA_VIOLATION", 4)
    assert "and 3 more" in error.detail
    assert "order.created" in error.detail


@pytest.mark.parametrize("value", [None, True, "text", 5, 1.5, 10**400, [], {}])
def test_any_value_can_be_judged(value: Any) -> None:
    assert schema("a", True).flaws(value, 10) == []
    assert [flaw.pointer for flaw in schema("a", False).flaws(value, 10)] == ["/data"]


def test_what_is_told_is_bounded() -> None:
    texts = schema("a", {"items": {"type": "number"}})
    found = texts.flaws(["x" * 1000] * 100, LOCATED_BYTES)
    assert len(found) == MAX_FLAWS
    assert max(len(flaw.detail) for flaw in found) == schemas.MAX_DETAIL
    nested: Any = []
    for _ in range(1000):
        nested = [nested]
    [flaw] = schema("a", {"const": 5}).flaws(nested, 2000)
    assert (flaw.pointer, "limit" in flaw.detail) == ("/data", True)


def test_large_data_that_is_wrong_everywhere_blocks_nobody() -> None:
    alternatives = schema("a", {"anyOf": [{"items": {"type": "string"}}] * 20})
    began = time.perf_counter()
    [flaw] = alternatives.flaws([0] * 500_000, 1_000_000)
    assert time.perf_counter() - began < 10, "looking for each flaw takes minutes"
    assert flaw.pointer == "/data"
    assert "16384" in flaw.detail


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=20))
def test_whatever_was_decoded_can_be_judged(value: Any) -> None:
    text = msgspec.json.encode(value)
    assert schema("a", {"not": {}}).flaws(value, len(text))
