"""How rules see an event: its attributes, and its data decoded at most once, when the first rule asks.

The rule kept here: reading never fails. Data that cannot be decoded is ``MISSING``, as a field that is not there.
"""

from enum import Enum
from typing import Any, Final

import msgspec
from msgspec import DecodeError, ValidationError

from tas_mcp.messages import Event


class Missing(Enum):
    """The type of ``MISSING``, which no JSON value equals (``None`` is the JSON null, and present)."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING

_decode = msgspec.json.Decoder().decode
_check = msgspec.json.Decoder(msgspec.Raw).decode  # reads the syntax only


class View:
    """One event under evaluation: one view for all rules. What it returns belongs to all of them: never change it."""

    __slots__ = ("bound", "data", "event")

    data: object
    """The data as a JSON value (a string that holds an object or array is that object or array), or ``MISSING``."""

    def __init__(self, event: Event) -> None:
        self.event = event
        self.bound: Any = None
        """The event as expressions see it, bound by the first of them."""

    def __getattr__(self, name: str) -> object:
        """Decodes the data when it is first asked for: only an attribute that is not there yet comes here, so that every later
        reading costs no call."""
        if name != "data":
            raise AttributeError(name)
        self.data = value = _value(self.event.data)
        return value


def payload_text(raw: msgspec.Raw) -> bytes:
    """The JSON text of data: what the string of the classic form holds, anything else byte for byte. Never raises."""
    text = bytes(raw)
    if not text.lstrip().startswith(b'"'):
        return text
    try:
        content = msgspec.json.decode(text, type=str)
        if not _is_container(content):
            return text
        _check(content)
    except (ValueError, RecursionError):
        return text
    return content.encode()


def _value(raw: msgspec.Raw) -> object:
    try:
        value = _decode(raw)
        return _unwrapped(value) if type(value) is str else value
    except (ValueError, RecursionError):
        return MISSING


def _unwrapped(text: str) -> object:
    if not _is_container(text):
        return text
    try:
        return _decode(text)
    except ValidationError:  # it is JSON, but holds a number out of range
        return MISSING
    except DecodeError:
        return text


def _is_container(text: str) -> bool:
    """Whether it starts like an object or array."""
    return text.lstrip().startswith(("{", "["))
