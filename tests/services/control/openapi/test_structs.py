"""JSON Schemas of Structs."""

from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Raw, Struct, UnsetType

from services.control.openapi.structs import components
from tas_mcp.durations import Duration


class Base(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    name: str
    wait: Duration = Duration(5)


class Leaf(Base, kw_only=True, tag="leaf"):
    """A ``leaf``,
    and no more."""

    kind: Literal["a", "b"] = "a"
    count: Annotated[int, Meta(ge=1, lt=9)] = 1
    labels: dict[str, str] = {}
    parts: "list[Leaf] | None" = None
    anything: Any = None
    raw: Raw = Raw(b"[1]")


class Answer(Struct):
    id: str
    note: str | UnsetType


def test_fields_limits_and_defaults() -> None:
    [schema] = components([Leaf]).values()
    assert schema == {
        "type": "object",
        "description": "A `leaf`, and no more.",
        "properties": {
            "type": {"const": "leaf"},
            "name": {"type": "string"},
            "wait": {"$ref": "#/components/schemas/Duration", "default": "5s"},
            "kind": {"enum": ["a", "b"], "default": "a"},
            "count": {"type": "integer", "minimum": 1, "exclusiveMaximum": 9, "default": 1},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}, "default": {}},
            "parts": {
                "anyOf": [{"type": "array", "items": {"$ref": "#/components/schemas/Leaf"}}, {"type": "null"}],
                "default": None,
            },
            "anything": {"default": None},
            "raw": {"default": [1]},
        },
        "required": ["type", "name"],
        "additionalProperties": False,
    }


def test_notes_are_inherited() -> None:
    notes: dict[str, Any] = {
        "Base": {"description": "all", "properties": {"name": {"description": "who"}}},
        "Leaf": {"examples": [1]},
    }
    schema = components([Leaf], notes)["Leaf"]
    assert schema["properties"]["name"] == {"type": "string", "description": "who"}
    assert schema["description"] == "A `leaf`, and no more."
    assert schema["examples"] == [1]


@pytest.mark.parametrize(("notes", "named"), [({"Leave": {}}, "Leave"), ({"Leaf": {"properties": {"colour": {}}}}, "colour")])
def test_a_note_on_what_is_not_there(notes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        components([Leaf], notes)


def test_a_type_without_a_form_is_named() -> None:
    with pytest.raises(NotImplementedError, match="complex"):
        components([complex])
