"""Which request heads the express lane takes. Pure: the bytes of a head in, what matters of it out.

The lane never judges: a head that is not plainly a POST of JSON to an event route, with nothing unusual about its framing, goes
to aiohttp, whose answer then is the only one. So the two cannot disagree about what is malformed.

Clients repeat themselves: on a kept connection nearly every head has been seen before, byte for byte. ``Heads`` remembers what
came of the last ones, which makes reading a head a look-up.
"""

from typing import NamedTuple

import httptools

from services.ingest.paths import BATCH_PATH, EVENTS_PATH
from tas_mcp.auth.credentials import credential
from tas_mcp.errors import Rejected

MAX_HEAD_BYTES = 8192
MAX_HEADERS = 64
REMEMBERED = 2048
REMEMBERED_BYTES = 1024

_LINES = {f"POST {EVENTS_PATH} HTTP/1.1".encode(): False, f"POST {BATCH_PATH} HTTP/1.1".encode(): True}
_TYPES = frozenset((b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"))
_ONCE = frozenset(
    (b"host", b"content-type", b"content-length", b"connection", b"x-request-id", b"user-agent", b"server", b"etag",
     b"content-location", b"content-range", b"max-forwards", b"x-forwarded-for", b"forwarded", b"authorization", b"x-api-key")
)  # fmt: skip
_UNUSUAL = frozenset(
    (b"transfer-encoding", b"expect", b"upgrade", b"prefer", b"content-encoding", b"te", b"trailer", b"http2-settings",
     b"proxy-connection", b"keep-alive", b"sec-websocket-key1")
)  # fmt: skip


class Head(NamedTuple):
    """A plain request: whether it goes to the batch route, the length of its body, its X-Request-Id, what a proxy says of where
    it comes from, and its credential (or ``""``)."""

    batch: bool
    length: int
    request_id: str
    forwarded: str = ""
    credential: str = ""


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
        elif name in _ONCE or name in _UNUSUAL:
            self.odd = True

    def on_headers_complete(self) -> None:
        self.complete = True


def read(head: bytes, max_body: int, forwarded: bytes = b"") -> Head | None:
    """What the head (up to and with its empty line) asks for, or None where aiohttp is to look at it. ``forwarded``: the header
    in which a proxy says where the request comes from (lower case)."""
    batch = _LINES.get(head[: head.find(b"\r\n")])
    parsed = _parse(head)
    if batch is None or parsed is None or not parsed.complete:
        return None
    return _plain(batch, parsed.once, max_body, forwarded)


def promising(head: bytes) -> bool:
    """Whether what has come of a head may begin a plain one. Where it cannot, aiohttp need not wait for the rest."""
    line, ended, _ = head.removesuffix(b"\r").partition(b"\r\n")
    fits = line in _LINES if ended else any(each.startswith(line) for each in _LINES)
    return fits and _parse(head.removesuffix(b"\r")) is not None


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


def _plain(batch: bool, once: dict[bytes, bytes], max_body: int, forwarded: bytes) -> Head | None:
    length = once.get(b"content-length", b"")
    if not (length.isdigit() and len(length) <= 7 and 0 < int(length) <= max_body) or not once.get(b"host"):
        return None
    if once.get(b"content-type", b"").lower() not in _TYPES or once.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    try:
        given = credential(once.items())
    except Rejected:
        return None
    said = once.get(forwarded, b"").decode("latin-1")
    return Head(batch, int(length), once.get(b"x-request-id", b"").decode("latin-1"), said, given)


class Heads:
    """Reads heads, and remembers the short ones that were plain."""

    def __init__(self, max_body: int, forwarded: str = "") -> None:
        self._max_body = max_body
        self._forwarded = forwarded.encode()
        self._seen: dict[bytes, Head] = {}

    def read(self, head: bytes) -> Head | None:
        """As ``read``."""
        found = self._seen.get(head)
        if found is None:
            found = read(head, self._max_body, self._forwarded)
            if found is not None and len(head) <= REMEMBERED_BYTES:
                if len(self._seen) >= REMEMBERED:
                    self._seen.clear()
                self._seen[head] = found
        return found
