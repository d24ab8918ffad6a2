"""The link to NATS: one client at a time, rebuilt from nothing when it is lost.

nats-py's own reconnecting is switched off. It buffers while the broker is away and sends after the callers were told
"unavailable", its read loop can end without a sound, and its reconnect task can die (all seen in 2.16). A fresh client with the
same subscriptions has none of that state: whatever was pending on the old one has failed, and everybody knows.

Rules: ``send`` never waits and never buffers while the link is down; a link that does not answer a ping within its deadline is
dropped.
"""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from nats.aio.client import Client, RawCredentials
from nats.errors import Error
from nkeys import NkeysError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from tas_mcp import telemetry
from tas_mcp.broker.security import Tls, TlsClient
from tas_mcp.broker.wire import FIRST_SID, Callback, Message, Wire, encode
from tas_mcp.errors import Rejected, Unavailable

log = telemetry.logger("broker")

PING_SECONDS = 2.0
PING_DEADLINE_SECONDS = 3
CONNECT_SECONDS = 2
UNSENT_BYTES = 16 * 1024 * 1024
"""How much may wait for the broker to read it before more is refused."""
HEADER_ROOM = 512
"""Bytes kept free below max_payload for the headers of a message."""

Hook = Callable[[], None]
Where = Callable[[], Awaitable[tuple[list[str], str]]]
"""The URLs to connect to now, and the name that a certificate must bear. ``OSError``: none."""


class Connection:
    """A link that comes and goes. Everything may be called at any time; what needs the broker raises ``Unavailable`` at once
    while the link is down. ``where`` is asked before each connect, for links that do not go to ``servers`` by their names.
    ``creds`` is the path of a credentials file, which is read at each connect, ``credentials`` the text of one, ``nkey`` a seed.
    With ``tls`` nothing is said to a server that has none."""

    def __init__(
        self,
        servers: list[str],
        name: str,
        *,
        user: str = "",
        password: str = "",
        token: str = "",
        creds: str = "",
        nkey: str = "",
        credentials: str = "",
        inbox_prefix: str = "",
        tls: Tls | None = None,
        where: Where | None = None,
    ) -> None:
        self._servers = servers
        self._name = name
        login = (
            ("user", user),
            ("password", password),
            ("token", token),
            ("user_credentials", RawCredentials(credentials) if credentials else creds),
            ("nkeys_seed_str", nkey),
            ("tls_handshake_first", tls is not None and tls.first),
        )
        self._login = {key: value for key, value in login if value}
        self._tls = tls
        self._where = where
        self._inbox = f"{inbox_prefix or '_INBOX'}.{secrets.token_hex(8)}"
        self._tokens = itertools.count()
        self._client: Client | None = None
        self._wire: Wire | None = None
        self._sids = itertools.count(FIRST_SID)
        self._subscriptions: dict[int, tuple[str, Callback]] = {}  # subject (and queue group), as SUB has it
        self._requests: dict[str, asyncio.Future[Message]] = {}
        self._outbox: list[bytes] = []
        self._lost = asyncio.Event()
        self._up_hooks: list[Hook] = []
        self._down_hooks: list[Hook] = []
        self._error: Exception | None = None
        self._peers: list[str] = []
        self.trouble = "not connected yet"
        self.max_payload = 1_048_576
        self.server_version = (0, 0)
        """Major and minor version of the server last connected to."""

    @property
    def connected(self) -> bool:
        return self._client is not None

    @property
    def peers(self) -> list[str]:
        """The URLs of the other servers of the cluster, as the server last connected to tells them."""
        if self._client is not None:
            self._peers = [f"nats://{each.netloc}" for each in self._client.discovered_servers]
        return self._peers

    def new_inbox(self) -> str:
        """A subject below this connection's own inbox prefix, never used before."""
        return f"{self._inbox}.{next(self._tokens)}"

    @contextmanager
    def watched(self, *, up: Hook | None = None, down: Hook | None = None) -> Iterator[None]:
        """Call ``up`` now if connected and after each (re)connect, all subscriptions in place; ``down`` after each loss."""
        hooks = [(self._up_hooks, up), (self._down_hooks, down)]
        for registry, hook in hooks:
            if hook:
                registry.append(hook)
        if up and self.connected:
            up()
        try:
            yield
        finally:
            for registry, hook in hooks:
                if hook:
                    registry.remove(hook)

    def send(self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Write at the end of this loop turn, together with all that the turn sends. No answer is awaited.

        Raises:
            Unavailable: the link is down, or the broker does not read what was sent; nothing was sent.
            Rejected: ``TOO_LARGE``: more than the broker takes (it would close the connection).
        """
        if self._wire is None:
            raise Unavailable(f"the broker is away: {self.trouble}")
        if len(payload) + HEADER_ROOM > self.max_payload:
            raise Rejected("TOO_LARGE", f"{len(payload)} bytes; the broker takes {self.max_payload - HEADER_ROOM}")
        if not self._outbox:
            if self._wire.unsent > UNSENT_BYTES:
                raise Unavailable(f"the broker has not read {self._wire.unsent} bytes yet")
            asyncio.get_running_loop().call_soon(self._write)
        self._outbox.append(encode(subject, payload, reply, headers))

    async def request(self, subject: str, payload: bytes = b"", timeout: float = 5.0) -> Message:
        """Send and wait for one answer.

        Raises:
            Unavailable: the link is down, nobody listens on ``subject``, or no answer came in ``timeout`` seconds.
        """
        token = self.new_inbox()
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._requests[token] = future
        try:
            self.send(subject, payload, token)
            async with asyncio.timeout(timeout):
                answer = await future
        except TimeoutError:
            raise Unavailable(f"no answer on {subject} within {timeout:g} s") from None
        finally:
            del self._requests[token]
        if answer.status == "503":
            raise Unavailable(f"nobody answers on {subject}")
        return answer

    @asynccontextmanager
    async def subscribed(self, subject: str, callback: Callback, queue: str = "") -> AsyncIterator[None]:
        """Call ``callback`` (which must not wait) for each message on ``subject``, over every reconnect; of all that subscribe
        with the same ``queue`` one gets each message. Leaving tells the broker first, then handles what had come by then."""
        sid = next(self._sids)
        self._subscriptions[sid] = f"{subject} {queue}" if queue else subject, callback
        if self._wire is not None:
            self._subscribe(self._wire, sid)
        try:
            yield
        finally:
            if self._wire is not None:
                self._wire.write(b"UNSUB %d\r\n" % sid)
                await self.flush()
            del self._subscriptions[sid]
            if self._wire is not None:
                self._wire.unroute(sid)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Connection"]:
        """Connect, and stay connected, in the background. Does not wait for the first connect."""
        self._subscriptions[next(self._sids)] = self._inbox + ".*", self._on_answer
        keeper = asyncio.create_task(self._keep())
        try:
            yield self
        finally:
            await self.flush()
            await _end(keeper)
            client = self._client
            self._went_down("")
            if client is not None:
                await self._close(client)

    def _on_answer(self, message: Message) -> None:
        """An answer to a request (its own inbox takes those of all; nobody may wait for it any more)."""
        future = self._requests.get(message.subject)
        if future is not None and not future.done():
            future.set_result(message)

    async def flush(self) -> None:
        """Wait (bounded) until the broker has read all that was sent, and what it sent before has been handled."""
        self._write()
        client = self._client
        if client is None:
            return
        with suppress(Error, OSError):  # the link is being lost: whoever waits on it is told by that
            await _ping(client)

    async def ready(self) -> None:
        """Wait until the link is up."""
        up = asyncio.Event()
        with self.watched(up=up.set):
            await up.wait()

    async def _keep(self) -> None:
        while True:
            client = await self._connect()
            await self._watch(client)
            await self._close(client)

    async def _connect(self) -> Client:
        async for attempt in AsyncRetrying(
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            retry=retry_if_exception_type((Error, OSError, TimeoutError, NkeysError, ValueError)),  # the last two: credentials
            before_sleep=self._not_yet,
        ):
            with attempt:
                self._lost = lost = asyncio.Event()

                async def closed(lost: asyncio.Event = lost) -> None:
                    lost.set()

                client = TlsClient()
                servers, certified = await self._where() if self._where else (self._servers, "")
                try:
                    await client.connect(
                        servers,
                        name=self._name,
                        tls=self._tls.context() if self._tls else None,
                        tls_hostname=certified or None,
                        allow_reconnect=False,
                        connect_timeout=CONNECT_SECONDS,
                        reconnect_time_wait=0.1,  # type: ignore[arg-type]
                        max_reconnect_attempts=1,  # each server twice; then it is our turn again
                        error_cb=self._on_error,
                        closed_cb=closed,
                        inbox_prefix=self._inbox,
                        flush_timeout=PING_DEADLINE_SECONDS,
                        **self._login,  # type: ignore[arg-type]
                    )
                except BaseException:
                    await self._close(client)
                    raise
        self._wire = Wire(client)
        for sid in self._subscriptions:
            self._subscribe(self._wire, sid)
        self.max_payload = client.max_payload
        version = client.connected_server_version
        self.server_version = (version.major, version.minor)
        self._client, self.trouble = client, ""
        log.info("connected to the broker", server=client.connected_url.netloc if client.connected_url else "")
        for hook in list(self._up_hooks):
            hook()
        return client

    def _not_yet(self, state: RetryCallState) -> None:
        error = self._error or (state.outcome.exception() if state.outcome else None)
        trouble = f"cannot connect to NATS at {', '.join(self._servers)}: {error}"
        if trouble != self.trouble:
            log.warning("broker away", detail=trouble)
        self.trouble = trouble

    async def _watch(self, client: Client) -> None:
        """Return when the link is lost or does not answer."""
        lost = self._lost
        while not lost.is_set():
            try:
                await _ping(client)
                async with asyncio.timeout(PING_SECONDS):
                    await lost.wait()
            except TimeoutError as error:  # nats' own TimeoutError, a subclass, is the ping's
                if isinstance(error, Error):
                    self._went_down(f"no answer to a ping within {PING_DEADLINE_SECONDS} s")
                    return
            except (Error, OSError) as error:
                self._went_down(repr(error))
                return
        self._went_down("the connection was lost")

    def _went_down(self, trouble: str) -> None:
        if self._client is None:
            return
        self._client = self._wire = None
        self.trouble = trouble or "closed"
        self._outbox.clear()
        if trouble:
            log.warning("broker connection lost", detail=trouble)
        for future in self._requests.values():
            if not future.done():
                future.set_exception(Unavailable("the connection to the broker was lost before the answer came"))
        for hook in list(self._down_hooks):
            hook()

    async def _close(self, client: Client) -> None:
        try:
            async with asyncio.timeout(PING_DEADLINE_SECONDS):
                await client.close()
        except (Error, OSError, TimeoutError) as error:
            log.debug("broker close", error=repr(error))

    def _write(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self._wire is not None and outbox:
            self._wire.write(outbox[0] if len(outbox) == 1 else b"".join(outbox))

    def _subscribe(self, wire: Wire, sid: int) -> None:
        subject, callback = self._subscriptions[sid]
        wire.route(sid, callback)
        wire.write(f"SUB {subject} {sid}\r\n".encode())

    async def _on_error(self, error: Exception) -> None:
        """Called inside nats-py's read loop, which dies if this raises."""
        self._error = error
        if self.connected:
            log.warning("broker error", error=repr(error))


async def _ping(client: Client) -> None:
    """Wait for the broker's answer to a ping, at most ``PING_DEADLINE_SECONDS``. Who stops waiting does not stop the ping: when
    the answer to one that was cancelled comes, nats-py stops reading; and its ``wait_for`` in Python 3.11 swallows a cancellation
    that meets the answer."""
    ping = asyncio.ensure_future(client.rtt(PING_DEADLINE_SECONDS))
    ping.add_done_callback(_over)
    await asyncio.shield(ping)


def _over(ping: "asyncio.Future[float]") -> None:
    """Look at how it ended, as nobody else may."""
    if not ping.cancelled():
        ping.exception()


async def _end(task: "asyncio.Task[None]") -> None:
    """Cancel until it ends: the ``wait_for`` of Python 3.11, inside nats-py, loses a cancellation that comes together with its
    result, and the task would go on for ever."""
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=0.1)
