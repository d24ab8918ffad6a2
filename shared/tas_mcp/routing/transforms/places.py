"""The places of an event that a transform may write: ``event_type``, ``metadata.<key>``, ``data`` and ``data.<path>``.

The rule kept here: nothing that is there already is changed. Writing makes new containers along the path and shares the rest with
the old value, which other targets are still reading.
"""

from typing import Any, Final, NamedTuple, cast

from tas_mcp.routing.equality import kind
from tas_mcp.routing.fields import ATTRIBUTES, FieldSyntaxError, Steps, compile_field, parse_path, walk
from tas_mcp.routing.view import MISSING

WRITABLE: Final = "metadata.<key>, data or data.<path>"
_IDENTITY: Final = {
    "event_id": "receivers recognize an event by its event_id (webhook-id is made from it)",
    "source": "receivers recognize an event by its source (webhook-id is made from it)",
    "timestamp": "the timestamp is the sender's",
}


class Place(NamedTuple):
    """A place: ``root`` is event_type, metadata or data; ``steps`` lead from there (the key of a metadata entry is one)."""

    text: str
    root: str
    steps: Steps


class Unwritable(ValueError):
    """A value cannot be put where the path leads: the text says why."""


def parse_place(text: str, *, attributes: bool = False) -> Place:
    """The place that a field name names; ``event_type`` only with ``attributes``.

    Raises:
        FieldSyntaxError: there is no such place, or it is not to be written.
    """
    if why := _IDENTITY.get(text):
        raise FieldSyntaxError(text, 0, f"cannot be written: {why}")
    compile_field(text)
    if text in ATTRIBUTES:
        if not attributes:
            raise FieldSyntaxError(text, 0, f"every event has an event_type; allowed here are {WRITABLE}")
        return Place(text, text, ())
    if text.startswith("metadata."):
        return Place(text, "metadata", (text.removeprefix("metadata."),))
    return Place(text, "data", cast(Steps, parse_path(text)))


def written(value: Any, steps: Steps, new: Any) -> Any:
    """``value`` with ``new`` in that place. Objects on the way are made where there is nothing, or null.

    Raises:
        Unwritable: the way leads through a string, a number ..., or to no element of an array.
    """
    if not steps:
        return new
    step, rest = steps[0], steps[1:]
    if isinstance(step, str):
        if value is MISSING or value is None:
            return {step: written(MISSING, rest, new)}
        if not isinstance(value, dict):
            raise Unwritable(f"{kind_of(value)} has no member {step!r}")
        return {**value, step: written(value.get(step, MISSING), rest, new)}
    if not isinstance(value, list):
        raise Unwritable(f"{kind_of(value)} has no element [{step}]")
    if not -len(value) <= step < len(value):
        raise Unwritable(f"an array of {len(value)} has no element [{step}]")
    copy = list(value)
    copy[step] = written(value[step], rest, new)
    return copy


def removed(value: Any, steps: Steps) -> Any:
    """``value`` without that place, or ``value`` itself where it is not there. An element leaves no gap in its array."""
    if walk(value, steps) is MISSING:
        return value
    step, rest = steps[0], steps[1:]
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    if rest:
        copy[step] = removed(value[step], rest)
    else:
        del copy[step]
    return copy


def kind_of(value: object) -> str:
    """What JSON calls it, for messages."""
    return "what is missing" if value is MISSING else kind(value)
