"""The live tail of the stored events as server-sent events (HTML Standard 9.2).

    GET /api/v1/events/stream?event_types=order.*&since=2026-01-01T00:00:00Z

``id`` is the sequence of the event: a client that comes back with it in ``Last-Event-ID``, as browsers do by themselves, goes on
from there. One that does not keep up is told how many events it missed, and cut; it may come back in the same way.
"""

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec
from aiohttp import web

from services.ingest import filters, pages
from services.ingest.guests import Guest
from services.ingest.http import admitting
from services.ingest.paths import STREAM_PATH
from services.ingest.rates import Addresses
from services.ingest.settings import Settings
from services.ingest.tail import Lagged, Listener, Start, Stored, Tail
from services.ingest.websocket import is_local
from tas_mcp import telemetry
from tas_mcp.auth import Authentication
from tas_mcp.errors import Flaw, Rejected, Unavailable
from tas_mcp.http import answering
from tas_mcp.routing import Condition
from tas_mcp.validation import flaw

log = telemetry.logger("sse")

SEND_SECONDS = 30.0
"""How long a client may leave what is sent to it unread."""
CHUNK = 100
"""How many events are written within one deadline."""
HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""The last one keeps nginx from gathering what is to be sent at once."""
HEARTBEAT = b":\n\n"
PARAMETERS = ("event_types", "conditions", "since", "last_event_id")

_decode = msgspec.json.Decoder(list[Condition]).decode


class Streams:
    """The route of the streams, and those that are open."""

    def __init__(self, settings: Settings, tail: Tail, auth: Authentication, addresses: Addresses | None = None) -> None:
        self._tail = tail
        self._heartbeat = settings.sse_heartbeat_seconds
        self._auth = auth
        self._addresses = addresses
        self._allowed = pages.listed(settings.allowed_origins)
        self._ending = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        return [web.get(STREAM_PATH, admitting(answering(self.handle), self._auth, self._addresses), allow_head=False)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """GET /api/v1/events/stream."""
        if self._ending.is_set():
            raise Unavailable("this process is about to end: connect again")
        readable = pages.check(request.headers, self._allowed, local=is_local(request) and not self._auth.enabled)
        guest = Guest(self._auth, request)
        caller = guest.caller()
        caller.require("events:read")
        asked = filters.compile_filter(request.query.getall("event_types", []), _conditions(request))
        keep = filters.within(asked, caller)
        async with self._tail.listening(keep, _start(request)) as listener:
            response = web.StreamResponse(headers={**HEADERS, **readable})
            await response.prepare(request)
            response.force_close()
            try:
                await self._tell(listener, response, partial(guest.confirm, caller))
            except Exception as error:
                if isinstance(error, Rejected | Unavailable):  # it may see them no more, and is told why when it comes again
                    return response
                if not isinstance(error, TimeoutError | ConnectionError):  # the edge: there is nobody left to answer
                    log.exception("a stream of events failed")
                if request.transport is not None:
                    request.transport.abort()
            return response

    async def drain(self) -> None:
        """End all streams."""
        self._ending.set()

    async def _tell(self, listener: Listener, response: web.StreamResponse, confirm: Callable[[], None]) -> None:
        """Write events as they come, until the end, or until the caller may see them no more."""
        await _write(response, b"retry: 1000\nid: %d\n\n" % (listener.next - 1))  # an id alone is no event, but a place to resume
        ending = asyncio.ensure_future(self._ending.wait())
        taking = asyncio.ensure_future(listener.take())
        try:
            while not ending.done():
                await asyncio.wait((taking, ending), timeout=self._heartbeat, return_when=asyncio.FIRST_COMPLETED)
                if not taking.done():
                    await _write(response, HEARTBEAT)
                    continue
                found = taking.result()
                confirm()
                for first in range(0, len(found), CHUNK):
                    await _write(response, b"".join(map(_block, found[first : first + CHUNK])))
                taking = asyncio.ensure_future(listener.take())
        except Lagged as lag:
            await _write(response, b'event: lagged\ndata: {"missed":%d}\n\n' % lag.missed)
        finally:
            ending.cancel()
            taking.cancel()
            await asyncio.gather(ending, taking, return_exceptions=True)


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await response.write(data)


def _block(stored: Stored) -> bytes:
    """An event, as it is stored: JSON, in which a line may end only between its members."""
    text = stored.text
    if b"\n" in text or b"\r" in text:
        text = text.replace(b"\r", b" ").replace(b"\n", b" ")
    return b"id: %d\ndata: %b\n\n" % (stored.sequence, text)


def _conditions(request: web.Request) -> list[Condition]:
    unknown = sorted(set(request.query) - set(PARAMETERS))
    if unknown:
        raise _bad(unknown[0], f"no such parameter; allowed are {', '.join(PARAMETERS)}")
    given = request.query.get("conditions", "[]")
    try:
        return _decode(given)
    except (ValueError, RecursionError) as error:
        what = flaw(error)
        raise _bad(f"conditions{what.pointer}", f"no JSON array of conditions: {what.detail}") from None


def _start(request: web.Request) -> Start:
    """Where to begin: after the event that the client saw last, or at a time, or now."""
    last = request.headers.get("Last-Event-ID") or request.query.get("last_event_id", "")
    if last:
        if not (last.isascii() and last.isdigit() and len(last) <= 19):
            raise _bad("last_event_id", f"{last[:64]!r} is no id of this stream: they are numbers")
        return int(last)
    since = request.query.get("since", "")
    return filters.moment(since) if since else None


def _bad(name: str, detail: str) -> Rejected:
    return Rejected("INVALID_REQUEST", f"{name}: {detail}", [Flaw(f"/{name}", detail)])
