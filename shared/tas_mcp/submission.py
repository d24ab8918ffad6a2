"""What a client submits, checked and made into the event that is stored. Pure: bytes in, ``Event`` out, or ``Rejected``.

Every check names the member that is wrong (JSON pointer) and the limit that was broken.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple, NoReturn

import msgspec
from msgspec import Raw, Struct

from tas_mcp.errors import Flaw, Rejected
from tas_mcp.messages import JSON_NULL, Event
from tas_mcp.validation import escape, flaw

MAX_ID_BYTES = 128
MAX_NAME_BYTES = 255
MAX_METADATA_BYTES = 4096
MAX_UNIX_SECONDS = 253_402_300_799
"""The end of the year 9999."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]").search
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)").fullmatch


class Submission(Struct, forbid_unknown_fields=True):
    """An event as clients write it."""

    event_type: str
    source: str
    event_id: str = ""
    timestamp: int | str | None = None
    data: Raw = JSON_NULL
    metadata: dict[str, str] | None = None


class Limits(NamedTuple):
    """What one event may have at most."""

    event_bytes: int = 1_048_576
    depth: int = 32
    metadata: int = 64


_decode = msgspec.json.Decoder(Submission).decode
_decode_any = msgspec.json.Decoder().decode


def read(body: bytes | Raw, limits: Limits, now_ns: int, new_id: Callable[[int], str]) -> tuple[Event, object]:
    """Check one submitted event; ``now_ns`` is the time of its acceptance, ``new_id`` makes an id where it has none. The second
    answer is its data, decoded: that of the classic form is what the string holds.

    Raises:
        Rejected: ``INVALID_EVENT`` or ``EVENT_TOO_LARGE``.
    """
    check_size(len(body), limits)
    try:
        given = _decode(body)
    except (ValueError, RecursionError) as error:
        raise invalid(flaw(error)) from None
    return accept(given, limits, now_ns, new_id)


def accept(given: Submission, limits: Limits, now_ns: int, new_id: Callable[[int], str]) -> tuple[Event, object]:
    """As ``read``, of what another form than JSON was read into.

    Raises:
        Rejected: ``INVALID_EVENT``.
    """
    event_id, event_type, source, data, metadata = (
        given.event_id, given.event_type, given.source, given.data, given.metadata
    )  # fmt: skip
    if not (0 < len(event_type) <= MAX_NAME_BYTES and plain(event_type)):
        check_text("/event_type", event_type, MAX_NAME_BYTES)
    if not (0 < len(source) <= MAX_NAME_BYTES and plain(source)):
        check_text("/source", source, MAX_NAME_BYTES)
    if not event_id:
        event_id = new_id(now_ns)
    elif not (len(event_id) <= MAX_ID_BYTES and plain(event_id)):
        check_text("/event_id", event_id, MAX_ID_BYTES)
    if metadata:
        _check_metadata(metadata, limits.metadata)
    value = None if data is JSON_NULL else check_data(data, limits.depth)
    event = Event(
        event_id=event_id,
        event_type=event_type,
        source=source,
        timestamp=_timestamp(given.timestamp, now_ns),
        accepted_at=now_ns,
        data=data,
        metadata=metadata or {},
    )
    return event, value


def check_size(size: int, limits: Limits) -> None:
    """
    Raises:
        Rejected: ``EVENT_TOO_LARGE``.
    """
    if size > limits.event_bytes:
        raise Rejected("EVENT_TOO_LARGE", f"the event has {size} bytes; the limit is {limits.event_bytes}")


def _timestamp(value: int | str | None, now_ns: int) -> int | str:
    if value is None:
        return now_ns // 1_000_000_000
    if isinstance(value, int):
        if not 0 <= value <= MAX_UNIX_SECONDS:
            refuse("/timestamp", f"{value} is not between 0 and {MAX_UNIX_SECONDS} (Unix seconds)")
        return value
    if not is_time(value):
        refuse("/timestamp", f"{value[:64]!r} is neither Unix seconds nor an RFC 3339 time")
    return value


def is_time(text: str) -> bool:
    """Whether it is an RFC 3339 time."""
    if not _RFC3339(text):
        return False
    try:
        datetime.fromisoformat(text[:19].upper())
    except ValueError:  # a day or an hour that does not exist
        return False
    return True


def plain(text: str) -> bool:
    """The usual case, told fast; what is not plain is looked at closely."""
    return text.isascii() and text.isprintable()


def check_text(pointer: str, text: str, limit: int) -> None:
    """Refuse a text that is empty, longer than so many bytes, or has control characters."""
    if not text:
        refuse(pointer, "must not be empty")
    if len(text.encode()) > limit:
        refuse(pointer, f"has {len(text.encode())} bytes; the limit is {limit}")
    if _CONTROL(text):
        refuse(pointer, "must not contain control characters")


def _check_metadata(metadata: dict[str, str], limit: int) -> None:
    if len(metadata) > limit:
        refuse("/metadata", f"has {len(metadata)} entries; the limit is {limit}")
    for key, value in metadata.items():
        if 0 < len(key) <= MAX_NAME_BYTES and len(value) <= MAX_METADATA_BYTES and plain(key) and plain(value):
            continue
        pointer = "/metadata/" + escape(key)
        check_text(pointer, key, MAX_NAME_BYTES)
        if len(value) > MAX_METADATA_BYTES:
            refuse(pointer, f"has {len(value)} characters; the limit is {MAX_METADATA_BYTES}")
        if _CONTROL(value):
            refuse(pointer, "must not contain control characters")


def check_data(data: Raw, limit: int) -> object:
    """The data, decoded. ``Raw`` was skipped over, not read: numbers out of range, bad UTF-8 and depth show only now."""
    try:
        value = _decode_any(data)
        text = bytes(data)
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):  # the classic form: JSON in a string
            text = value.encode()
            value = _classic(value)
    except (ValueError, RecursionError) as error:
        where, what = flaw(error)
        raise invalid(Flaw("/data" + where, what)) from None
    if text.count(b"{") + text.count(b"[") > limit and _deeper(value, limit):
        refuse("/data", f"is nested deeper than {limit} levels")
    return value


def _classic(text: str) -> object:
    try:
        return _decode_any(text)
    except msgspec.DecodeError:
        return text  # a string that only looks like JSON is a string


def _deeper(value: object, limit: int) -> bool:
    """Whether objects and arrays nest deeper than ``limit``."""
    level = [value]
    for _ in range(limit + 1):
        children: list[object] = []
        for each in level:
            if isinstance(each, dict):
                children += each.values()
            elif isinstance(each, list):
                children += each
        if not any(isinstance(each, dict | list) for each in level):
            return False
        level = [each for each in children if isinstance(each, dict | list)]
    return True


def refuse(pointer: str, detail: str) -> NoReturn:
    """Refuse an event for what is wrong at ``pointer``."""
    raise invalid(Flaw(pointer, detail))


def invalid(what: Flaw) -> Rejected:
    """The refusal of an event."""
    where = what.pointer or "the event"
    return Rejected("INVALID_EVENT", f"{where}: {what.detail}", [what])
