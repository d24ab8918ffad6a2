"""The names of fields: parsed once, then read from any number of views.

    event_id  event_type  source  timestamp      the attributes of the event
    metadata.<key>                               the key is all that follows the first dot, further dots included
    cloudevent.<attribute>                       an attribute of what came as a CloudEvent; otherwise that metadata entry
    data  data.<path>                            .name  [0]  [-1]  ["key with dots"]  [*], up to 32 steps

``[*]`` stands for every element of an array: such a field has any number of values, and ``compile_each`` reads them.

The rule kept here: a bad name fails when it is compiled. Reading never does: what is absent, or lies in a container of
another type, is ``MISSING``.
"""

import json
import re
from collections.abc import Callable
from enum import Enum
from operator import attrgetter
from typing import Any, Final

import msgspec

from tas_mcp.routing.view import MISSING, View

MAX_LENGTH: Final = 512
MAX_STEPS: Final = 32
ATTRIBUTES: Final = ("event_id", "event_type", "source", "timestamp")
ALLOWED: Final = f"{', '.join(ATTRIBUTES)}, metadata.<key>, cloudevent.<attribute>, data or data.<path>"

Field = Callable[[View], object]
Each = Callable[[View], list[Any]]


class Every(Enum):
    """The type of ``EVERY``, the step to each element of an array."""

    EVERY = "[*]"


EVERY: Final = Every.EVERY
Step = str | int | Every
Steps = tuple[str | int, ...]
"""To one place."""

_STEP = re.compile(
    r"""
      \. (?P<name> [^.\[\]"]+ )
    | \[ (?P<index> -?(?:0|[1-9][0-9]*) ) \]
    | \[ (?P<every> \* ) \]
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
    if text.startswith("cloudevent."):
        return _cloudevent(text)
    if _is_path(text):
        steps = parse_path(text)
        if EVERY in steps:
            raise FieldSyntaxError(text, text.index("[*]"), "[*] has many values; name one element, as in [0] or [-1]")
        return _path(steps)
    raise FieldSyntaxError(text, 0, f"no such field; allowed are {ALLOWED}")


def compile_test(text: str, test: Callable[[object], bool]) -> Callable[[View], bool]:
    """``compile_field`` and a test of the value in one. The most frequent fields are read without a call of their own."""
    read = compile_field(text)
    if text == "event_type":
        return lambda view: test(view.event.event_type)
    if text == "source":
        return lambda view: test(view.event.source)
    steps = parse_path(text) if _is_path(text) else ()
    if len(steps) != 1 or not isinstance(steps[0], str):
        return lambda view: test(read(view))
    name = steps[0]

    def tested(view: View) -> bool:
        data = view.data
        return test(data.get(name, MISSING) if type(data) is dict else MISSING)

    return tested


def compile_each(text: str) -> Each | None:
    """A function that reads all values of a field with ``[*]`` (none for what is missing), or None for any other field.

    Raises:
        FieldSyntaxError: the field looks into the data, and cannot be.
    """
    if not _is_path(text) or len(text) > MAX_LENGTH or EVERY not in (steps := parse_path(text)):
        return None
    first, *rest = _split(steps)

    def each(view: View) -> list[Any]:
        values = [walk(view.data, first)]
        for part in rest:
            values = [walk(item, part) for value in values if type(value) is list for item in value]
        return [value for value in values if value is not MISSING]

    return each


def _split(steps: tuple[Step, ...]) -> list[Steps]:
    """The steps before, between and after those to every element."""
    parts: list[list[str | int]] = [[]]
    for step in steps:
        if isinstance(step, Every):
            parts.append([])
        else:
            parts[-1].append(step)
    return [tuple(part) for part in parts]


def _is_path(text: str) -> bool:
    return text == "data" or text.startswith(("data.", "data["))


def _metadata(text: str) -> Field:
    key = text.removeprefix("metadata.")
    if not key:
        raise FieldSyntaxError(text, len(text), "the metadata key is missing")

    def field(view: View) -> object:
        return view.event.metadata.get(key, MISSING)

    return field


def _cloudevent(text: str) -> Field:
    """As targets with a ``cloudevents`` format get it: metadata entries are attributes too."""
    name = text.removeprefix("cloudevent.")
    if not name:
        raise FieldSyntaxError(text, len(text), "the name of the attribute is missing")

    def field(view: View) -> object:
        event = view.event
        return event.cloudevent[name] if name in event.cloudevent else event.metadata.get(name, MISSING)

    return field


def _path(steps: tuple[Step, ...]) -> Field:
    if not steps:
        return attrgetter("data")
    if len(steps) == 1 and isinstance(steps[0], str):
        return _member(steps[0])
    [walked] = _split(steps)
    return lambda view: walk(view.data, walked)


def walk(value: Any, steps: Steps) -> Any:
    """What lies there, or ``MISSING``."""
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


def _member(name: str) -> Field:
    """The most frequent path, ``data.<name>``, without the loop."""

    def field(view: View) -> object:
        data = view.data
        return data.get(name, MISSING) if type(data) is dict else MISSING

    return field


def parse_path(text: str) -> tuple[Step, ...]:
    """The steps of a field that starts with ``data``; ``FieldSyntaxError`` if they cannot be."""
    steps: list[Step] = []
    position = len("data")
    while position < len(text):
        if len(steps) == MAX_STEPS:
            raise FieldSyntaxError(text, position, f"at most {MAX_STEPS} steps are allowed")
        match = _STEP.match(text, position)
        if match is None:
            raise FieldSyntaxError(text, position, 'a step is .name, [0], [-1], [*] or ["key with dots"]')
        steps.append(_step(text, match))
        position = match.end()
    return tuple(steps)


def _step(text: str, match: re.Match[str]) -> Step:
    name, index, key, every = match.group("name", "index", "key", "every")
    if every is not None:
        return EVERY
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


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
