"""How often a schema looks at one value."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp.errors import Rejected
from tas_mcp.schema_cost import cost
from tas_mcp.schemas import MAX_LOOKS, check


def chain(length: int, reference: str = "#/$defs/d{}", *, below: bool = False) -> dict[str, Any]:
    """Definitions that each refer twice to the next one."""
    definitions: dict[str, Any] = {f"d{length}": {"type": "object"}}
    for each in range(length):
        twice = [{"$ref": reference.format(each + 1)}] * 2
        definitions[f"d{each}"] = {"allOf": [{"properties": {"x": one}} if below else one for one in twice]}
    return {"$defs": definitions, "$ref": reference.format(0)}


@pytest.mark.parametrize(
    ("schema", "looks"),
    [
        (True, 1),
        ({}, 1),
        ({"type": "object", "properties": {"a": {}, "b": {"properties": {"c": {}}}}}, 3),
        ({"allOf": [{}, {"anyOf": [{}, True]}]}, 5),
        ({"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"not": {}}}}, 4),
        ({"patternProperties": {"a": {}, "b": {}}, "additionalProperties": {"contains": {}}}, 5),
        ({"$ref": "#"}, 2),
        ({"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}, 3),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, 2),
        ({"$ref": "#/nothing/5/here"}, 2),
        ({"allOf": [{}], "$defs": {"a": {"$ref": "#/allOf/0"}}, "$ref": "#/$defs/a"}, 4),
    ],
)
def test_the_longest_way_is_counted(schema: Any, looks: int) -> None:
    assert cost(schema) == looks


@pytest.mark.parametrize(
    "schema",
    [
        chain(24),
        chain(24, below=True),
        {"$id": "https://example.com/s.json", **chain(24, "s.json#/$defs/d{}")},
        {"$ref": "urn:x:y#/$defs/d0", "$defs": {"a": {**chain(24), "$id": "urn:x:y"}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", **chain(24)},
    ],
    ids=["at one place", "one below the other", "by id", "in another resource", "draft 7"],
)
def test_what_doubles_with_each_definition_is_refused(schema: dict[str, Any]) -> None:
    assert cost(schema) > 2**24
    with pytest.raises(Rejected, match=f"the limit is {MAX_LOOKS}") as refused:
        check("a", {"schema": schema})
    assert refused.value.flaws[0].pointer == "/schema"


def test_anchors() -> None:
    schema = {"$ref": "#a", "$defs": {"x": {"$anchor": "a", "allOf": [{}, {}, {}]}}}
    assert cost(schema) == 5
    check("a", {"schema": schema})


def test_a_chain_too_long_to_be_followed_is_refused() -> None:
    definitions = {f"d{each}": {"$ref": f"#/$defs/d{each + 1}"} for each in range(3000)}
    with pytest.raises(Rejected, match="chained too deep"):
        check("a", {"schema": {"$defs": {**definitions, "d3000": {}}, "$ref": "#/$defs/d0"}})


def test_a_syntax_tree_is_taken() -> None:
    """It refers to itself from many places, as those of languages do."""
    statements = [{"properties": {"type": {"const": kind}, "body": {"$ref": "#/$defs/block"}}} for kind in ("if", "while", "for")]
    block = {"type": "array", "items": {"oneOf": statements}}
    check("a", {"schema": {"$ref": "#/$defs/block", "$defs": {"block": block}}})


names = st.sampled_from(["$ref", "$id", "id", "$anchor", "allOf", "not", "properties", "items", "dependencies", "$defs", "x"])
texts = st.sampled_from(["#", "#/$defs/x", "#/allOf/0", "#/allOf/²", "x", "http://[", "http://a/b#/c", "#%ff", ""]) | st.text()


@given(st.recursive(st.booleans() | texts | st.integers(), lambda more: st.lists(more) | st.dictionaries(names, more)))
def test_whatever_is_given_it_ends(value: Any) -> None:
    with suppress(ValueError):
        assert cost(value) >= 1
