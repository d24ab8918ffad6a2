"""Events over a WebSocket: sent, each answered by an ack, and heard as they are stored. See ``frames.py`` for what is said.

The rules kept here: an ack means that the broker has it. A frame that is not valid is answered by an error, and no more. At most
``websocket_window`` answers of a connection are owed; until some of them are written no more is read. A client that does not read
is let go: by the deadline of a write, by a ping, or as a listener that does not keep up.
"""

import asyncio
import time
from collections.abc import Iterable
from functools import partial

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter
from msgspec import UNSET

from services.ingest import answers, batch, filters, forms, frames, pages
from services.ingest.filters import Keep
from services.ingest.frames import Frame, Id, Send, SendMany, Subscribe
from services.ingest.guests import Guest
from services.ingest.http import admitting
from services.ingest.intake import Accepted, Counted, Intake
from services.ingest.paths import WS_PATH
from services.ingest.rates import Addresses
from services.ingest.settings import Settings
from services.ingest.tail import Lagged, Start, Tail
from tas_mcp import submission, telemetry
from tas_mcp.auth import SUBPROTOCOL, Authentication, AuthenticationFailed
from tas_mcp.callers import Caller
from tas_mcp.errors import Rejected, TasError, Unavailable
from tas_mcp.http import answering, request_id

log = telemetry.logger("websocket")

SEND_SECONDS = 30.0
"""How long a client may leave what is sent to it unread."""
CLOSE_SECONDS = 2.0
"""How long a client may take to answer a close frame."""
CHUNK = 100
"""How many events are written within one deadline."""

SOCKETS = telemetry.gauge("mcp_websockets", "Open WebSockets")


class Sockets:
    """The route of the WebSockets, and those that are open."""

    def __init__(
        self, settings: Settings, intake: Intake, tail: Tail, auth: Authentication, addresses: Addresses | None = None
    ) -> None:
        self.settings = settings
        self.intake = intake
        self.tail = tail
        self.counted = Counted("websocket")
        self._auth = auth
        self._addresses = addresses
        self._allowed = pages.listed(settings.allowed_origins)
        self._open: set[Socket] = set()
        self._draining = False

    def routes(self) -> list[web.RouteDef]:
        return [web.get(WS_PATH, admitting(answering(self.handle), self._auth, self._addresses), allow_head=False)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """GET /api/v1/events/ws."""
        if self._draining:
            raise Unavailable("this process is about to end: connect again")
        pages.check(request.headers, self._allowed, local=is_local(request) and not self._auth.enabled)
        guest = Guest(self._auth, request)
        response = web.WebSocketResponse(
            heartbeat=self.settings.websocket_ping_seconds,
            timeout=CLOSE_SECONDS,
            compress=False,
            max_msg_size=self.settings.max_batch_bytes + frames.ENVELOPE_BYTES,
            decode_text=False,
            protocols=(SUBPROTOCOL,),
        )
        if not response.can_prepare(request):
            raise Rejected("INVALID_REQUEST", "this is a WebSocket: open it by a handshake (RFC 6455)")
        writer = await response.prepare(request)
        socket = Socket(self, response, writer, request, guest)
        self._open.add(socket)
        SOCKETS.inc()
        try:
            await socket.serve()
        except Exception:  # the edge: there is nobody left to answer
            log.exception("a WebSocket failed")
            socket.abort()
        finally:
            self._open.discard(socket)
            SOCKETS.dec()
        return response

    async def drain(self) -> None:
        """Answer what is in flight on each, then close it."""
        self._draining = True
        why = "this process ends: connect again"
        await asyncio.gather(*(socket.finish(WSCloseCode.GOING_AWAY, why) for socket in self._open))


def is_local(request: web.Request) -> bool:
    """Whether a request came from this machine to itself."""
    name = request.transport.get_extra_info("sockname") if request.transport else None
    return name is not None and name[0] in ("127.0.0.1", "::1")


class Socket:
    """One client."""

    def __init__(
        self,
        sockets: Sockets,
        response: "web.WebSocketResponse[bool]",
        writer: AbstractStreamWriter,
        request: web.Request,
        guest: Guest,
    ) -> None:
        self._sockets = sockets
        self._response = response
        self._writer = writer
        self._request = request
        self._request_id = request_id(request)
        self._guest = guest
        self._window = sockets.settings.websocket_window
        self._out: list[bytes] = []
        self._some = asyncio.Event()
        self._owed = 0
        self._room = asyncio.Event()
        self._quiet = asyncio.Event()
        self._heard = time.monotonic()
        self._ending = False
        self._gone = False
        self._closing = asyncio.Lock()
        self._tasks: asyncio.TaskGroup
        self._listening: asyncio.Task[None] | None = None
        self._asked: tuple[Id] | None = None
        """The id of a subscription that was not answered yet."""

    async def serve(self) -> None:
        """Read frames until either side closes."""
        async with asyncio.TaskGroup() as self._tasks:
            others = [self._tasks.create_task(self._send()), self._tasks.create_task(self._watch())]
            try:
                async for message in self._response:
                    if message.type is WSMsgType.ERROR:  # against the protocol, or too large: aiohttp has said so, and closed
                        break
                    self._heard = time.monotonic()
                    if not self._ending:
                        await self._take(message.type, message.data)
                        await self._spare()
                async with self._closing:  # who closes it waits for the client's word
                    self._gone = True
            finally:
                self._stop_listening()
                for task in others:
                    task.cancel()

    async def finish(self, code: int, why: str) -> None:
        """Take no more, answer what is in flight, then close."""
        self._ending = True
        self._stop_listening()
        while self._owed and not self._gone:
            self._quiet.clear()
            await self._quiet.wait()
        await self._close(code, why)

    async def _take(self, kind: WSMsgType, data: bytes) -> None:
        self._owed += 1
        if kind is not WSMsgType.TEXT:
            self._refuse(UNSET, Rejected("INVALID_REQUEST", "the frame is not valid: send JSON in text frames"))
            return
        try:
            frame = frames.decode(data)
        except Rejected as error:
            self._refuse(frames.id_of(data), error)
            return
        try:
            await self._do(frame, self._guest.caller())
        except AuthenticationFailed as error:
            self._turn_out(frame.id, error)
        except TasError as error:
            self._refuse(frame.id, error)

    async def _do(self, frame: Frame, caller: Caller) -> None:
        """
        Raises:
            TasError: the frame as a whole comes to nothing.
        """
        intake, counted = self._sockets.intake, self._sockets.counted
        match frame:
            case Send():
                await intake.room()
                settle = partial(self._settle, frame.id)
                trace = intake.trace(counted, "")
                intake.submit(frame.event, len(frame.event), submission.read, caller, counted, settle, trace=trace)
            case SendMany():
                caller.require("events:write")
                settings = self._sockets.settings
                entries = forms.array(bytes(frame.events), settings.max_batch_bytes, settings.max_batch_events)
                found = await batch.submit(entries, intake, caller, counted)
                if (refusal := answers.whole(found)) is not None:
                    raise refusal
                self._answer(frames.ack(frame.id, found))
            case Subscribe():
                self._subscribe(frame, caller)
            case _:
                self._stop_listening()
                self._answer(frames.ack(frame.id, []))

    async def _spare(self) -> None:
        """Wait until another answer may be owed."""
        while self._owed >= self._window and not self._gone:
            self._room.clear()
            await self._room.wait()

    def _turn_out(self, given: Id, error: AuthenticationFailed) -> None:
        """Tell a client whose credential does not hold any more, and close."""
        self._refuse(given, error)
        self._ending = True
        self._tasks.create_task(self.finish(WSCloseCode.POLICY_VIOLATION, error.detail))

    def _settle(self, given: Id, answer: Accepted | TasError) -> None:
        if isinstance(answer, TasError):
            self._refuse(given, answer)
        else:
            self._answer(frames.ack(given, (answer,)))

    def _refuse(self, given: Id, error: TasError) -> None:
        self._answer(frames.error(given, error, self._request_id))

    def _answer(self, frame: bytes) -> None:
        """Have a frame written soon, together with all that this turn of the loop answers."""
        if not self._gone:
            self._out.append(frame)
            self._some.set()

    async def _send(self) -> None:
        try:
            while True:
                await self._some.wait()
                self._some.clear()
                out, self._out = self._out, []
                await self._write(out)
                self._written(len(out))
        except (ConnectionError, TimeoutError):
            self.abort()
        finally:
            self._gone = True
            self._written(0)

    async def _write(self, out: Iterable[bytes]) -> None:
        """Write frames at once: one by one they cost a sixth of all that is done for their events."""
        transport = self._request.transport
        if transport is None or transport.is_closing() or self._response.closed:
            raise ConnectionResetError("the WebSocket is closed")
        transport.write(b"".join(map(frames.framed, out)))
        async with asyncio.timeout(SEND_SECONDS):
            await self._writer.drain()

    def _written(self, count: int) -> None:
        self._owed -= count
        self._room.set()
        if self._owed == 0 or self._gone:
            self._quiet.set()

    def _subscribe(self, frame: Subscribe, caller: Caller) -> None:
        caller.require("events:read")
        if self._listening is not None:
            raise Rejected("CONFLICT", "this connection has a subscription already: unsubscribe first")
        keep = filters.within(filters.compile_filter(frame.event_types, frame.conditions), caller)
        start = filters.moment(frame.since) if frame.since is not None else frame.after
        self._asked = (frame.id,)
        self._listening = self._tasks.create_task(self._listen(frame.id, caller, keep, start))

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None
        if self._asked is not None:
            self._refuse(self._asked[0], Rejected("CONFLICT", "the subscription was ended before it began"))
            self._asked = None

    async def _listen(self, given: Id, caller: Caller, keep: Keep | None, start: Start) -> None:
        try:
            await self._tell(given, caller, keep, start)
        except Lagged as lag:
            await self._close(WSCloseCode.TRY_AGAIN_LATER, str(lag), frames.lagged(lag.missed))
        except AuthenticationFailed as error:
            self._owed += 1
            self._turn_out(given, error)
        except TasError as error:
            self._asked = None
            self._refuse(given, error)
        except (ConnectionError, TimeoutError):
            self.abort()
        finally:
            if self._listening is asyncio.current_task():
                self._listening = None

    async def _tell(self, given: Id, caller: Caller, keep: Keep | None, start: Start) -> None:
        """Write events as they come, as long as the caller may see them."""
        async with self._sockets.tail.listening(keep, start) as listener:
            self._asked = None
            try:
                await self._write([frames.ack(given, (), listener.next - 1)])
            finally:
                self._written(1)
            while True:
                found = await listener.take()
                self._guest.confirm(caller)
                for first in range(0, len(found), CHUNK):
                    await self._write([frames.event(each.sequence, each.text) for each in found[first : first + CHUNK]])

    async def _watch(self) -> None:
        """Close what is idle."""
        idle = self._sockets.settings.websocket_idle_seconds
        while True:
            rest = self._heard + idle - time.monotonic()
            if rest <= 0 and not self._owed and self._listening is None:
                await self._close(WSCloseCode.OK, f"no frame came within {idle:g} s")
                return
            await asyncio.sleep(rest if rest > 0 else idle)

    async def _close(self, code: int, why: str, *last: bytes) -> None:
        """Close in good order, after some last frames; or at once, where the client takes too long."""
        self._ending = True
        async with self._closing:
            try:
                async with asyncio.timeout(2 * CLOSE_SECONDS):
                    if last:
                        await self._write(last)
                    await self._response.close(code=code, message=why.encode())
            except (ConnectionError, TimeoutError):
                self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._request.transport is not None:
            self._request.transport.abort()
