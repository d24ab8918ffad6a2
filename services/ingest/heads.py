"""Which request heads the express lane takes. Pure: the bytes of a head in, what matters of it out.

The lane never judges: a head that is not plainly a POST of events to their route, with nothing unusual about its framing, goes
to aiohttp, whose answer then is the only one. So the two cannot disagree about what is malformed.

Clients repeat themselves: on a kept connection nearly every head has been seen before, byte for byte. ``Heads`` remembers what
came of the last ones, which makes reading a head a look-up. The attributes of a CloudEvent in the binary mode differ from request
to request, so their lines are cut out first, and the rest is remembered.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import httptools

from services.ingest.forms import BINARY, MANY, SINGLE, Form
from services.ingest.paths import BATCH_PATH, EVENTS_PATH
from tas_mcp.auth.credentials import credential
from tas_mcp.errors import Rejected

MAX_HEAD_BYTES = 8192
MAX_HEADERS = 64
REMEMBERED = 2048
REMEMBERED_BYTES = 1024
MAX_ATTRIBUTES = 32

_LINES = {f"POST {EVENTS_PATH} HTTP/1.1".encode(): False, f"POST {BATCH_PATH} HTTP/1.1".encode(): True}
_FORMS: dict[bool, dict[bytes, Form]] = {
    many: {
        f"{media}{charset}".encode(): form
        for media, form in forms.items()
        for charset in ("", "; charset=utf-8", ";charset=utf-8")
    }
    for many, forms in ((False, SINGLE), (True, MANY))
}
_ATTRIBUTE = re.compile(rb"\r\n[Cc][Ee]-([A-Za-z0-9]+):([ -~]*)(?=\r\n)")
"""A line with an attribute, plainly written; any other that begins with ``ce-`` is aiohttp's to judge."""
_DATA_TYPE = re.compile(rb"(?!application/cloudevents)[!-~][ -~]*", re.IGNORECASE).fullmatch
_ONCE = frozenset(
    (b"host", b"content-type", b"content-length", b"connection", b"x-request-id", b"user-agent", b"server", b"etag",
     b"content-location", b"content-range", b"max-forwards", b"x-forwarded-for", b"forwarded", b"authorization", b"x-api-key")
)  # fmt: skip
_UNUSUAL = frozenset(
    (b"transfer-encoding", b"expect", b"upgrade", b"prefer", b"content-encoding", b"te", b"trailer", b"http2-settings",
     b"proxy-connection", b"keep-alive", b"sec-websocket-key1")
)  # fmt: skip


class Head(NamedTuple):
    """A plain request: the form that its events have, the length of its body, its X-Request-Id, what a proxy says of where it
    comes from, and its credential (or ``""``); in the binary mode of CloudEvents also the attributes and the data's type."""

    form: Form
    length: int
    request_id: str
    forwarded: str = ""
    credential: str = ""
    attributes: Sequence[tuple[bytes, bytes]] = ()
    content_type: bytes = b""


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


def read(head: bytes, max_body: int, forwarded: bytes = b"") -> Head | None:
    """What the head (up to and with its empty line) asks for, or None where aiohttp is to look at it. ``forwarded``: the header
    in which a proxy says where the request comes from (lower case)."""
    return _assembled(head, lambda rest, attributed: _read(rest, max_body, forwarded, attributed=attributed))


def _assembled(head: bytes, read_rest: Callable[[bytes, bool], Head | None]) -> Head | None:
    """Read a head without its attributes, and put these to it."""
    parts = _ATTRIBUTE.split(head)
    if len(parts) == 1:
        return read_rest(head, False)
    names, values = parts[1::3], parts[2::3]
    if len(names) > MAX_ATTRIBUTES or len(head) > MAX_HEAD_BYTES:
        return None
    rest = read_rest(b"".join(parts[::3]), True)
    if rest is None:
        return None
    pairs = list(zip(names, values, strict=True))
    return Head(rest.form, rest.length, rest.request_id, rest.forwarded, rest.credential, pairs, rest.content_type)


def _read(head: bytes, max_body: int, forwarded: bytes, *, attributed: bool) -> Head | None:
    many = _LINES.get(head[: head.find(b"\r\n")])
    parsed = _parse(head)
    if many is None or parsed is None or not parsed.complete:
        return None
    return _plain(parsed.once, max_body, forwarded, many=many, attributed=attributed)


def promising(head: bytes) -> bool:
    """Whether what has come of a head may begin a plain one. Where it cannot, aiohttp need not wait for the rest."""
    line, ended, _ = head.removesuffix(b"\r").partition(b"\r\n")
    fits = line in _LINES if ended else any(each.startswith(line) for each in _LINES)
    return fits and _parse(_ATTRIBUTE.sub(b"", head.removesuffix(b"\r"))) is not None


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
    return Head(form, int(length), request_id, said, given, (), content_type if attributed else b"")


class Heads:
    """Reads heads, and remembers the short ones that were plain."""

    def __init__(self, max_body: int, forwarded: str = "") -> None:
        self._max_body = max_body
        self._forwarded = forwarded.encode()
        self._seen: dict[bytes, Head] = {}
        self._attributed: dict[bytes, Head] = {}

    def read(self, head: bytes) -> Head | None:
        """As ``read``."""
        return self._seen.get(head) or _assembled(head, self._remembered)

    def _remembered(self, rest: bytes, attributed: bool) -> Head | None:
        seen = self._attributed if attributed else self._seen
        found = seen.get(rest)
        if found is None:
            found = _read(rest, self._max_body, self._forwarded, attributed=attributed)
            if found is not None and len(rest) <= REMEMBERED_BYTES:
                if len(seen) >= REMEMBERED:
                    seen.clear()
                seen[rest] = found
        return found
