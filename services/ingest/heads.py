"""Which request heads the express lane takes. Pure: the bytes of a head in, what matters of it out.

The lane never judges: a head that is not plainly a POST of events to their route, with nothing unusual about its framing, goes
to aiohttp, whose answer then is the only one. So the two cannot disagree about what is malformed.

Clients repeat themselves: on a kept connection nearly every head has been seen before, byte for byte. ``Heads`` remembers what
came of the last ones, which makes reading a head a look-up. The attributes of a CloudEvent in the binary mode differ from request
to request; the lines of those that usually do are cut out first, and the rest is remembered.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import httptools

from services.ingest.cloudevents import attribute
from services.ingest.forms import BINARY, MANY, SINGLE, Form
from services.ingest.paths import BATCH_PATH, EVENTS_PATH
from tas_mcp.auth.credentials import credential
from tas_mcp.errors import Rejected

MAX_HEAD_BYTES = 8192
MAX_HEADERS = 64
REMEMBERED = 2048
REMEMBERED_BYTES = 1024
MAX_ATTRIBUTES = 32

T = TypeVar("T", bytes, str)

_LINES = {f"POST {EVENTS_PATH} HTTP/1.1".encode(): False, f"POST {BATCH_PATH} HTTP/1.1".encode(): True}
_FORMS: dict[bool, dict[bytes, Form]] = {
    many: {
        f"{media}{charset}".encode(): form
        for media, form in forms.items()
        for charset in ("", "; charset=utf-8", ";charset=utf-8")
    }
    for many, forms in ((False, SINGLE), (True, MANY))
}
_VARYING = re.compile(
    r"\r\n[Cc][Ee]-([Ii][Dd]|[Tt][Ii][Mm][Ee]|[Ss]ubject|[Ss]equence|[Pp]artitionkey|[Tt]raceparent): ?([!#$&-~]{1,128})(?=\r\n)"
)
"""A line with an attribute that usually differs from request to request, and needs no decoding (HTTP binding 3.1.3)."""
_TRACEPARENT = re.compile(rb"\r\n[Tt]raceparent: ?([0-9a-f-]{55})(?=\r\n)").search
"""It differs from request to request, and is cut out for that."""
_CE = frozenset((b"ce-", b"Ce-", b"CE-", b"cE-"))
_HEADER = re.compile(rb"([Cc][Ee]-[A-Za-z0-9]+):([ -~]*)").fullmatch
_DATA_TYPE = re.compile(rb"(?!application/cloudevents)[!-~][ -~]*", re.IGNORECASE).fullmatch
_ONCE = frozenset(
    (b"host", b"content-type", b"content-length", b"connection", b"x-request-id", b"user-agent", b"server", b"etag",
     b"content-location", b"content-range", b"max-forwards", b"x-forwarded-for", b"forwarded", b"authorization", b"x-api-key")
)  # fmt: skip
_UNUSUAL = frozenset(
    (b"transfer-encoding", b"expect", b"upgrade", b"prefer", b"content-encoding", b"te", b"trailer", b"http2-settings",
     b"proxy-connection", b"keep-alive", b"sec-websocket-key1", b"sec-websocket-protocol")
)  # fmt: skip


class Head(NamedTuple):
    """A plain request: the form that its events have, the length of its body, its X-Request-Id, what a proxy says of where it
    comes from, its credential, and its ``traceparent`` (each or ``""``); in the binary mode of CloudEvents also the attributes
    and the data's type."""

    form: Form
    length: int
    request_id: str
    forwarded: str = ""
    credential: str = ""
    attributes: Mapping[str, str] = MappingProxyType({})
    content_type: bytes = b""
    traceparent: str = ""


class _Parsed:
    """What httptools (llhttp, strict) tells of a head."""

    def __init__(self) -> None:
        self.headers = 0
        self.once: dict[bytes, bytes] = {}
        self.odd = False
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers += 1
        if name in _ONCE and name not in self.once:
            self.once[name] = value
        elif name in _ONCE or name in _UNUSUAL or name.startswith(b"ce-"):
            self.odd = True

    def on_headers_complete(self) -> None:
        self.complete = True


def _read(head: bytes, max_body: int, forwarded: bytes, *, attributed: bool = False) -> Head | None:
    """What a head asks for, whose plainest attributes are cut out already if it is ``attributed``."""
    lines = head.split(b"\r\n")
    headers = [line for line in lines if line[:3] in _CE]
    attributes = dict(pair for line in headers if (pair := _attribute(line)))
    many = _LINES.get(lines[0])
    if many is None or not len(headers) == len(attributes) <= MAX_ATTRIBUTES or len(head) > MAX_HEAD_BYTES:
        return None
    parsed = _parse(b"\r\n".join([line for line in lines if line[:3] not in _CE]) if headers else head)
    if parsed is None or not parsed.complete:
        return None
    found = _plain(parsed.once, max_body, forwarded, many=many, attributed=attributed or bool(headers))
    return found._replace(attributes=attributes) if found and attributes else found


def _attribute(line: bytes) -> tuple[str, str] | None:
    """An attribute that is plainly written, and right; any other line that begins with ``ce-`` is aiohttp's to judge."""
    found = _HEADER(line)
    try:
        return attribute(*found.groups()) if found else None
    except Rejected:
        return None


def promising(head: bytes) -> bool:
    """Whether what has come of a head may begin a plain one. Where it cannot, aiohttp need not wait for the rest."""
    line, ended, _ = head.removesuffix(b"\r").partition(b"\r\n")
    fits = line in _LINES if ended else any(each.startswith(line) for each in _LINES)
    *whole, last = head.removesuffix(b"\r").split(b"\r\n")
    rest = [line for line in whole if line[:3] not in _CE or _attribute(line) is None]
    return fits and _parse(b"\r\n".join([*rest, last])) is not None


def _parse(head: bytes) -> _Parsed | None:
    """What llhttp makes of a head or its beginning; None where it, or we, see anything odd."""
    if len(head) > MAX_HEAD_BYTES or b"\0" in head or b"\r\n " in head or b"\r\n\t" in head:
        return None
    if not head.count(b"\n") == head.count(b"\r") == head.count(b"\r\n"):
        return None
    parsed = _Parsed()
    try:
        httptools.HttpRequestParser(parsed).feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    return None if parsed.odd or parsed.headers > MAX_HEADERS else parsed


def _plain(once: dict[bytes, bytes], max_body: int, forwarded: bytes, *, many: bool, attributed: bool) -> Head | None:
    length = once.get(b"content-length", b"")
    if not (length.isdigit() and len(length) <= 7 and 0 < int(length) <= max_body) or not once.get(b"host"):
        return None
    if once.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    content_type = once.get(b"content-type", b"")
    form = BINARY if attributed and not many and _DATA_TYPE(content_type) else _FORMS[many].get(content_type.lower())
    if form is None or (attributed and form is not BINARY):
        return None
    try:
        given = credential(once.items())
    except Rejected:
        return None
    request_id, said = (once.get(name, b"").decode("latin-1") for name in (b"x-request-id", forwarded))
    return Head(form, int(length), request_id, said, given, content_type=content_type if attributed else b"")


class Heads:
    """Reads heads, and remembers the short ones that were plain. ``forwarded``: the header in which a proxy says where a request
    comes from (lower case)."""

    def __init__(self, max_body: int, forwarded: str = "") -> None:
        self._max_body = max_body
        self._forwarded = forwarded.encode()
        self._seen: dict[bytes, Head] = {}
        self._attributed: dict[str, Head] = {}

    def read(self, head: bytes) -> Head | None:
        """What the head (up to and with its empty line) asks for, or None where aiohttp is to look at it."""
        found = self._seen.get(head)
        if found is not None:
            return found
        if traced := _TRACEPARENT(head):
            rest = self.read(head[: traced.start()] + head[traced.end() :])
            return rest._replace(traceparent=traced[1].decode()) if rest is not None else None
        parts = _VARYING.split(head.decode("latin-1"))
        if len(parts) > 1:
            return self._put_together(head, parts)
        found = _read(head, self._max_body, self._forwarded)
        if found is not None and len(head) <= REMEMBERED_BYTES:
            _remember(self._seen, head, found)
        return found

    def _put_together(self, head: bytes, parts: list[str]) -> Head | None:
        """Read the rest between the varying attributes, and put these to it."""
        names, values = parts[1::3], parts[2::3]
        if len(names) > MAX_ATTRIBUTES or len(head) > MAX_HEAD_BYTES:
            return None
        rest = "".join(parts[::3])
        found = self._attributed.get(rest)
        if found is None:
            found = _read(rest.encode("latin-1"), self._max_body, self._forwarded, attributed=True)
            if found is None:
                return None
            if len(rest) <= REMEMBERED_BYTES:
                _remember(self._attributed, rest, found)
        attributes = {**found.attributes, **dict(zip(map(str.lower, names), values, strict=True))}
        if len(attributes) < len(found.attributes) + len(names):
            return None  # one is there twice
        form, length, request_id, forwarded, given, _, content_type, _ = found
        return Head(form, length, request_id, forwarded, given, attributes, content_type)


def _remember(seen: dict[T, Head], head: T, found: Head) -> None:
    if len(seen) >= REMEMBERED:
        seen.clear()
    seen[head] = found
