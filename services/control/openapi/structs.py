"""JSON Schemas (2020-12) of msgspec Structs.

``msgspec.json.schema_components`` would do, but for defaults that are none of its own types (our durations), and for what is to
be said of each field: that is written beside the routes, by the name of the Struct that has it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import NODEFAULT, inspect

from tas_mcp.durations import Duration, to_json

Schema = dict[str, Any]

CUSTOM: dict[type, str] = {Duration: "Duration"}
"""Types that msgspec knows only by a hook: the component that describes each is written by hand."""

PLAIN: dict[type[inspect.Type], Schema] = {
    inspect.AnyType: {},
    inspect.RawType: {},
    inspect.NoneType: {"type": "null"},
    inspect.BoolType: {"type": "boolean"},
    inspect.IntType: {"type": "integer"},
    inspect.FloatType: {"type": "number"},
    inspect.StrType: {"type": "string"},
}
BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
    "pattern": "pattern",
}


def components(kinds: Iterable[Any], notes: Mapping[str, Schema] | None = None) -> dict[str, Schema]:
    """The schemas of these Structs and of all that they use, by the Structs' names.

    ``notes`` holds, by the name of a Struct, what is to be said besides: a Struct takes what is said of its bases too. Without a
    description of its own it is described by its docstring.

    Raises:
        ValueError: a note on a Struct or a field that is not there.
        NotImplementedError: a type that has no form in JSON Schema here; give it one.
    """
    derivation = _Derivation(notes or {})
    for kind in inspect.multi_type_info(list(kinds)):
        derivation.schema(kind)
    if unused := derivation.notes.keys() - derivation.used:
        raise ValueError(f"openapi: notes on Structs that are not used: {', '.join(sorted(unused))}")
    return derivation.found


def reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


class _Derivation:
    def __init__(self, notes: Mapping[str, Schema]) -> None:
        self.notes = notes
        self.used: set[str] = set()
        self.found: dict[str, Schema] = {}

    def schema(self, kind: inspect.Type) -> Schema:
        match kind:
            case inspect.Metadata(type=inner, extra_json_schema=extra):
                return {**self.schema(inner), **(extra or {})}
            case inspect.StructType():
                return self._struct(kind)
            case inspect.UnionType(types=types):
                return {"anyOf": [self.schema(each) for each in types]}
            case inspect.LiteralType(values=values):
                return {"enum": list(values)}
            case inspect.CustomType(cls=cls) if cls in CUSTOM:
                return reference(CUSTOM[cls])
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
                return {"type": "array", "items": self.schema(item), **_sizes(kind, "Items")}
            case inspect.DictType(value_type=value):
                return {"type": "object", "additionalProperties": self.schema(value), **_sizes(kind, "Properties")}
            case _ if type(kind) in PLAIN:
                return {**PLAIN[type(kind)], **_bounds(kind), **_sizes(kind, "Length")}
        raise NotImplementedError(f"no JSON Schema is known for {kind}")

    def _struct(self, kind: inspect.StructType) -> Schema:
        name = kind.cls.__name__.lstrip("_")
        if name in self.found:
            return reference(name)
        schema: Schema = {"type": "object", "properties": {}}
        self.found[name] = schema  # before its fields: one of them may hold another of its kind
        if kind.tag_field:
            schema["properties"][kind.tag_field] = {"const": kind.tag}
        for field in kind.fields:
            schema["properties"][field.encode_name] = {**self.schema(field.type), **_default(field)}
        required = [kind.tag_field] if kind.tag_field else []
        required += [field.encode_name for field in kind.fields if field.required]
        if required:
            schema["required"] = required
        if kind.forbid_unknown_fields:
            schema["additionalProperties"] = False
        if kind.cls.__doc__:
            schema["description"] = " ".join(kind.cls.__doc__.replace("``", "`").split())
        for base in reversed(kind.cls.__mro__):
            self._note(schema, base.__name__, base is kind.cls)
        return reference(name)

    def _note(self, schema: Schema, name: str, whole: bool) -> None:
        """Add what is said of a Struct's fields; with ``whole``, also what is said of it as such."""
        note = self.notes.get(name, {})
        self.used.add(name)
        for field, more in note.get("properties", {}).items():
            if field not in schema["properties"]:
                raise ValueError(f"openapi: {name} has no field {field!r} to say something of")
            schema["properties"][field].update(more)
        if whole:
            schema.update({word: value for word, value in note.items() if word != "properties"})


def _default(field: inspect.Field) -> Schema:
    value = field.default_factory() if callable(field.default_factory) else field.default
    if value is NODEFAULT or value is msgspec.UNSET:
        return {}
    return {"default": msgspec.json.decode(msgspec.json.encode(value, enc_hook=to_json))}


def _bounds(kind: Any) -> Schema:
    return {word: value for name, word in BOUNDS.items() if (value := getattr(kind, name, None)) is not None}


def _sizes(kind: Any, what: str) -> Schema:
    sizes = {"min" + what: getattr(kind, "min_length", None), "max" + what: getattr(kind, "max_length", None)}
    return {word: value for word, value in sizes.items() if value is not None}
