"""The names of fields: parsed once, then read from any number of views.

    event_id  event_type  source  timestamp      the attributes of the event
    metadata.<key>                               the key is all that follows the first dot, further dots included
    data  data.<path>                            .name  [0]  [-1]  ["key with dots"], up to 32 steps

The rule kept here: a bad name fails when it is compiled. Reading never does: what is absent, or lies in a container of
another type, is ``MISSING``.
"""

import json
import re
from collections.abc import Callable
from operator import attrgetter
from typing import Final

import msgspec

from tas_mcp.routing.view import MISSING, View

MAX_LENGTH: Final = 512
MAX_STEPS: Final = 32
ATTRIBUTES: Final = ("event_id", "event_type", "source", "timestamp")
ALLOWED: Final = f"{', '.join(ATTRIBUTES)}, metadata.<key>, data or data.<path>"

Field = Callable[[View], object]

_STEP = re.compile(
    r"""
      \. (?P<name> [^.\[\]"]+ )
    | \[ (?P<index> -?(?:0|[1-9][0-9]*) ) \]
    | \[ (?P<key> "(?:[^"\\]|\\.)*" ) \]
    """,
    re.VERBOSE,
)


class FieldSyntaxError(ValueError):
    """A field that cannot be: the text says at which ``position`` (from 0) and what is allowed there."""

    def __init__(self, text: str, position: int, allowed: str) -> None:
        super().__init__(f"field {_short(text)}, position {position}: {allowed}")
        self.position = position


def compile_field(text: str) -> Field:
    """A function that reads this field from a view and never raises; ``FieldSyntaxError`` if there is no such field."""
    if len(text) > MAX_LENGTH:
        raise FieldSyntaxError(text, MAX_LENGTH, f"at most {MAX_LENGTH} characters are allowed, these are {len(text)}")
    if text in ATTRIBUTES:
        return attrgetter(f"event.{text}")
    if text.startswith("metadata."):
        return _metadata(text)
    if text == "data" or text.startswith(("data.", "data[")):
        return _path(_steps(text))
    raise FieldSyntaxError(text, 0, f"no such field; allowed are {ALLOWED}")


def _metadata(text: str) -> Field:
    key = text.removeprefix("metadata.")
    if not key:
        raise FieldSyntaxError(text, len(text), "the metadata key is missing")

    def field(view: View) -> object:
        return view.event.metadata.get(key, MISSING)

    return field


def _path(steps: tuple[str | int, ...]) -> Field:
    if not steps:
        return attrgetter("data")
    if len(steps) == 1 and isinstance(steps[0], str):
        return _member(steps[0])

    def field(view: View) -> object:
        value = view.data
        for step in steps:
            if isinstance(step, str):
                if type(value) is not dict:
                    return MISSING
                value = value.get(step, MISSING)
            elif type(value) is list and -len(value) <= step < len(value):
                value = value[step]
            else:
                return MISSING
        return value

    return field


def _member(name: str) -> Field:
    """The most frequent path, ``data.<name>``, without the loop."""

    def field(view: View) -> object:
        data = view.data
        return data.get(name, MISSING) if type(data) is dict else MISSING

    return field


def _steps(text: str) -> tuple[str | int, ...]:
    steps: list[str | int] = []
    position = len("data")
    while position < len(text):
        if len(steps) == MAX_STEPS:
            raise FieldSyntaxError(text, position, f"at most {MAX_STEPS} steps are allowed")
        match = _STEP.match(text, position)
        if match is None:
            raise FieldSyntaxError(text, position, _expected(text, position))
        steps.append(_step(text, match))
        position = match.end()
    return tuple(steps)


def _step(text: str, match: re.Match[str]) -> str | int:
    name, index, key = match.group("name", "index", "key")
    if index is not None:
        return int(index)
    if key is not None:
        try:
            return msgspec.json.decode(key, type=str)
        except ValueError:
            raise FieldSyntaxError(text, match.start(), "the key in quotes must be a JSON string") from None
    if name == "*" or name != name.strip():
        raise FieldSyntaxError(text, match.start(), f"a key like this is written [{json.dumps(name)}]")
    return str(name)


def _expected(text: str, position: int) -> str:
    if text.startswith(("[*]", ".[*]"), position):
        return 'the wildcard [*] is not supported; name one element, as in [0] or [-1], or use "contains"'
    return 'a step is .name, [0], [-1] or ["key with dots"]'


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
