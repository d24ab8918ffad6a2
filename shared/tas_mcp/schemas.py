"""JSON Schemas for the data of events: which schema holds for an event type, and what is wrong with data by it. Pure.

The name of a schema is an event type, or a pattern of event types: ``*`` stands for any text within one of the tokens between the
dots (at most once in each), ``**`` as the last token for all tokens that are left, at least one. An exact name wins over any
pattern; of several patterns that which is more specific in the first token in which they differ.

Schemas are those of JSON Schema, draft 2020-12 where ``$schema`` names no other. ``format`` is enforced. Regexes are matched in
linear time, so they have no look-around and no back-references. Nothing is ever fetched: a ``$ref`` stays within its schema.
"""

from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from typing import Any, Literal

import jsonschema_rs
import msgspec
from jsonschema_rs import RegexOptions, ValidationError, Validator
from msgspec import Struct

from tas_mcp.errors import Flaw, Rejected
from tas_mcp.schema_cost import cost
from tas_mcp.validation import escape, flaw, invalid

MAX_NAME_BYTES = 255
MAX_SCHEMA_BYTES = 262_144
REGEX_BYTES = 1_048_576
"""How large a compiled regex may be, and its tables at work."""
MAX_FLAWS = 20
MAX_DETAIL = 300
LOCATED_BYTES = 16_384
"""In data larger than this flaws are not looked for one by one: that takes up to 2 us a byte, more with alternatives (judging it
takes a hundredth of that)."""
MAX_LOOKS = 10_000
"""How many subschemas one value may be held against: about 0.1 ms."""
FOUND = 4096
"""For how many event types a book remembers the schema."""

_LATEST = "https://json-schema.org/draft/2020-12/schema"

ANY = "*"
REST = "**"


class SchemaDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored in ``tas_schemas`` under a name. ``warn``: what breaks the schema is accepted, and counted."""

    schema: dict[str, Any] | bool
    mode: Literal["enforce", "warn"] = "enforce"


class Schema:
    """A compiled schema; ``revision`` is that of its document (0: not stored yet)."""

    __slots__ = ("_validator", "document", "name", "revision")

    def __init__(self, name: str, revision: int, document: SchemaDocument) -> None:
        """
        Raises:
            Rejected: ``INVALID_SCHEMA`` with a flaw for each problem.
        """
        self.name = name
        self.revision = revision
        self.document = document
        self._validator = _compile(document.schema)

    @property
    def enforced(self) -> bool:
        return self.document.mode == "enforce"

    def flaws(self, data: object, size: int) -> list[Flaw]:
        """What is wrong with decoded data whose text has ``size`` bytes: the first ``MAX_FLAWS``, with pointers into the event.
        Nothing: it is valid."""
        try:
            if self._validator.is_valid(data):
                return []
            found = _located(self._validator, data, "/data") if size <= LOCATED_BYTES else []
        except ValueError as error:  # deeper than it can be told
            return [Flaw("/data", _short(str(error)))]
        return found or [
            Flaw("/data", f"does not fit the schema (in data of more than {LOCATED_BYTES} bytes it is not looked for where)")
        ]


def check(name: str, document: Any) -> Schema:
    """Read and compile a document that somebody wants to store (decoded JSON).

    Raises:
        Rejected: ``INVALID_SCHEMA`` with a flaw for each problem.
    """
    try:
        found = msgspec.convert(document, SchemaDocument)
    except msgspec.ValidationError as error:
        raise _invalid([flaw(error)]) from None
    size = len(msgspec.json.encode(found.schema))
    if size > MAX_SCHEMA_BYTES:
        raise _invalid([Flaw("/schema", f"has {size} bytes; the limit is {MAX_SCHEMA_BYTES}")])
    if flaws := check_name(name):
        raise _invalid(flaws)
    compiled = Schema(name, 0, found)
    if detail := _costly(found.schema):
        raise _invalid([Flaw("/schema", detail)])
    return compiled


def decode(name: str, revision: int, value: bytes) -> Schema:
    """Read and compile a stored document.

    Raises:
        Rejected: it is not valid (written by hand, or by a newer version).
    """
    try:
        found = msgspec.json.decode(value, type=SchemaDocument)
    except (ValueError, RecursionError) as error:
        raise _invalid([flaw(error)]) from None
    if flaws := check_name(name):
        raise _invalid(flaws)
    return Schema(name, revision, found)


def check_name(name: str) -> list[Flaw]:
    """What is wrong with a name; it is not in the document, hence the empty pointer."""
    if not 0 < len(name.encode()) <= MAX_NAME_BYTES or not name.isprintable():
        return [Flaw("", f"the name must be 1 to {MAX_NAME_BYTES} bytes of printable text")]
    *first, last = name.split(".")
    for token in [*first, "" if last == REST else last]:
        if token.count(ANY) > 1:
            return [Flaw("", f"the name: * may be once in {token!r}, and ** is the last token or none")]
    return []


def violation(schema: Schema, flaws: list[Flaw]) -> Rejected:
    """The refusal of an event."""
    first = flaws[0]
    more = f" (and {len(flaws) - 1} more)" if len(flaws) > 1 else ""
    return Rejected("SCHEMA_VIOLATION", f"{first.pointer}: {first.detail}{more}; by the schema {schema.name!r}", flaws)


def matches(name: str, event_type: str) -> bool:
    """Whether a schema of this name is for the event type."""
    tokens, given = name.split("."), event_type.split(".")
    if tokens[-1] == REST:
        tokens.pop()
        if len(given) <= len(tokens):
            return False
        del given[len(tokens) :]
    return len(tokens) == len(given) and all(map(_token_matches, tokens, given))


class SchemaBook:
    """All schemas in force. Never changed; ``bool()`` of it says whether there is any."""

    def __init__(self, schemas: Iterable[Schema] = ()) -> None:
        found = {schema.name: schema for schema in schemas}
        self._exact = {name: schema for name, schema in found.items() if ANY not in name}
        self._patterns = sorted((schema for name, schema in found.items() if ANY in name), key=lambda each: _rank(each.name))
        self.find = lru_cache(maxsize=FOUND)(self._find)
        """The schema of an event type, or None."""

    def __bool__(self) -> bool:
        return bool(self._exact or self._patterns)

    def _find(self, event_type: str) -> Schema | None:
        exact = self._exact.get(event_type)
        return exact or next((each for each in self._patterns if matches(each.name, event_type)), None)


def _token_matches(token: str, given: str) -> bool:
    before, star, after = token.partition(ANY)
    if not star:
        return token == given
    return len(given) >= len(before) + len(after) and given.startswith(before) and given.endswith(after)


def _rank(name: str) -> tuple[list[tuple[int, int]], str]:
    """What sorts the more specific pattern first: token by token, text before ``a*`` before ``*`` before ``**``."""
    return [_token_rank(token) for token in name.split(".")], name


def _token_rank(token: str) -> tuple[int, int]:
    if token == REST:
        return 2, 0
    return (1, -len(token)) if ANY in token else (0, 0)


def _compile(schema: dict[str, Any] | bool) -> Validator:
    pattern_options = RegexOptions(size_limit=REGEX_BYTES, dfa_size_limit=REGEX_BYTES)
    try:
        return jsonschema_rs.validator_for(schema, pattern_options=pattern_options, offline=True, validate_formats=True)
    except ValidationError as error:
        raise _invalid(_problems(schema) or [_problem(error)]) from None
    except ValueError as error:
        raise _invalid([Flaw("/schema", _short(str(error)))]) from None


def _costly(schema: dict[str, Any] | bool) -> str:
    """What is wrong with how often a schema that compiles would look at a value."""
    try:
        looks = cost(schema)
    except (RecursionError, ValueError):
        return "its references are chained too deep, or lead nowhere"
    if looks <= MAX_LOOKS:
        return ""
    return (
        f"would look up to {looks} times at one value; the limit is {MAX_LOOKS}: definitions refer to each other more than once"
    )


def _problems(schema: dict[str, Any] | bool) -> list[Flaw]:
    """All that the metaschema says about a schema of reasonable size."""
    if not isinstance(schema, dict) or len(msgspec.json.encode(schema)) > LOCATED_BYTES:
        return []
    try:
        meta = jsonschema_rs.validator_for({"$ref": schema.get("$schema", _LATEST)}, offline=True)
    except ValidationError:  # ``$schema`` names none that is known
        return []
    return _located(meta, schema, "/schema")


def _located(validator: Validator, value: object, root: str) -> list[Flaw]:
    """The first flaws that the keywords of the schema find, each once."""
    found = (Flaw(root + each["instanceLocation"], _short(each["error"])) for each in validator.evaluate(value).errors())
    return list(islice(dict.fromkeys(found), MAX_FLAWS))


def _problem(error: ValidationError) -> Flaw:
    pointer = "/schema" + "".join(f"/{escape(str(step))}" for step in error.instance_path)
    match error.kind.name:
        case "format":
            return Flaw(pointer, f"{_short(error.message)}; look-around and back-references are none, and it has a size limit")
        case "$ref":
            return Flaw(pointer, f"a $ref or $schema leads nowhere: {_short(error.message)}; nothing is fetched from outside")
    return Flaw(pointer, _short(error.message))


def _short(detail: str) -> str:
    return detail if len(detail) <= MAX_DETAIL else detail[: MAX_DETAIL - 3] + "..."


def _invalid(flaws: list[Flaw]) -> Rejected:
    return invalid("INVALID_SCHEMA", "schema", flaws)
