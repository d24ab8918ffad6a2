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
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error, MaxPayloadError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from tas_mcp import telemetry
from tas_mcp.errors import Unavailable

log = telemetry.logger("broker")

PING_SECONDS = 2.0
PING_DEADLINE_SECONDS = 3
CONNECT_SECONDS = 2
WRITE_SECONDS = 5.0
PENDING_BYTES = 16 * 1024 * 1024

CONNECTED = telemetry.gauge("mcp_broker_connected", "1 while the link to NATS is up")
RECONNECTS = telemetry.counter("mcp_broker_connects", "Links to NATS that were made")


class Message:
    """A message as it came from the broker. ``headers`` is None where there are none."""

    __slots__ = ("data", "headers", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str] | None) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self.headers = headers

    @property
    def status(self) -> str:
        """The status code of a message that carries no payload but news (``408`` ...), or ``""``."""
        return self.headers.get("Status", "") if self.headers else ""


Callback = Callable[[Message], None]
Hook = Callable[[], None]
_Outgoing = tuple[str, bytes, str, dict[str, str] | None]


class Connection:
    """A link that comes and goes. Everything may be called at any time; what needs the broker raises ``Unavailable`` at once
    while the link is down."""

    def __init__(
        self, servers: list[str], name: str, *, user: str = "", password: str = "", creds: str = "", inbox_prefix: str = ""
    ) -> None:
        self._servers = servers
        self._name = name
        self._login = {k: v for k, v in (("user", user), ("password", password), ("user_credentials", creds)) if v}
        self._inbox = f"{inbox_prefix or '_INBOX'}.{secrets.token_hex(8)}"
        self._tokens = itertools.count()
        self._client: Client | None = None
        self._subscriptions: dict[str, Callback] = {}
        self._requests: dict[str, asyncio.Future[Message]] = {}
        self._outbox: list[_Outgoing] = []
        self._wake = asyncio.Event()
        self._written = asyncio.Event()
        self._written.set()
        self._lost = asyncio.Event()
        self._live: dict[str, Subscription] = {}
        self._up_hooks: list[Hook] = []
        self._down_hooks: list[Hook] = []
        self._error: Exception | None = None
        self.trouble = "not connected yet"
        self.max_payload = 1_048_576
        self.server_version = (0, 0)
        """Major and minor version of the server last connected to."""

    @property
    def connected(self) -> bool:
        return self._client is not None

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
            Unavailable: the link is down; nothing was sent.
        """
        if self._client is None:
            raise Unavailable(f"the broker is away: {self.trouble}")
        if not self._outbox:
            self._wake.set()
            self._written.clear()
        self._outbox.append((subject, payload, reply, headers))

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
    async def subscribed(self, subject: str, callback: Callback) -> AsyncIterator[None]:
        """Call ``callback`` (which must not wait) for each message on ``subject``, over every reconnect. Leaving
        tells the broker first, then handles what had come by then."""
        self._subscriptions[subject] = callback
        if self._client is not None:
            with suppress(Error, OSError):  # the link went down this moment: the next one makes up for it
                await self._subscribe(self._client, subject)
        try:
            yield
        finally:
            del self._subscriptions[subject]
            subscription = self._live.pop(subject, None)
            if subscription is not None and self._client is not None:
                with suppress(Error, OSError, TimeoutError):  # the link went down this moment: so did the subscription
                    async with asyncio.timeout(PING_DEADLINE_SECONDS):
                        await subscription.drain()  # type: ignore[no-untyped-call]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Connection"]:
        """Connect, and stay connected, in the background. Does not wait for the first connect."""
        self._subscriptions[self._inbox + ".*"] = self._on_answer
        keeper = asyncio.create_task(self._keep())
        writer = asyncio.create_task(self._write())
        try:
            yield self
        finally:
            await self.flush()
            for task in (keeper, writer):
                task.cancel()
            await asyncio.gather(keeper, writer, return_exceptions=True)
            if self._client is not None:
                await self._close(self._client)
                self._went_down("")

    def _on_answer(self, message: Message) -> None:
        """An answer to a request (its own inbox takes those of all; nobody may wait for it any more)."""
        future = self._requests.get(message.subject)
        if future is not None and not future.done():
            future.set_result(message)

    async def flush(self) -> None:
        """Wait (bounded) until all that was sent so far has reached the broker."""
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._written.wait()
                if self._client is not None:
                    await self._client.flush(PING_DEADLINE_SECONDS)
        except (TimeoutError, Error, OSError) as error:
            log.warning("broker flush failed", error=repr(error))

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
            retry=retry_if_exception_type((Error, OSError, TimeoutError)),
            before_sleep=self._not_yet,
        ):
            with attempt:
                self._lost = lost = asyncio.Event()

                async def closed(lost: asyncio.Event = lost) -> None:
                    lost.set()

                client = Client()
                try:
                    await client.connect(
                        self._servers,
                        name=self._name,
                        allow_reconnect=False,
                        connect_timeout=CONNECT_SECONDS,
                        reconnect_time_wait=0.1,  # type: ignore[arg-type]
                        max_reconnect_attempts=1,  # each server twice; then it is our turn again
                        error_cb=self._on_error,
                        closed_cb=closed,
                        inbox_prefix=self._inbox,
                        pending_size=PENDING_BYTES,
                        flush_timeout=WRITE_SECONDS,
                        **self._login,  # type: ignore[arg-type]
                    )
                    self._live.clear()
                    while missing := self._subscriptions.keys() - self._live.keys():  # more may come while we wait
                        for subject in missing:
                            await self._subscribe(client, subject)
                except BaseException:
                    await self._close(client)
                    raise
        self.max_payload = client.max_payload
        version = client.connected_server_version
        self.server_version = (version.major, version.minor)
        self._client, self.trouble = client, ""
        CONNECTED.set(1)
        RECONNECTS.inc()
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
                await client.rtt(PING_DEADLINE_SECONDS)
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
        self._client, self.trouble = None, trouble or "closed"
        self._outbox.clear()
        self._written.set()
        CONNECTED.set(0)
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

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._outbox = self._outbox, []
            client = self._client
            if client is not None:
                await self._write_batch(client, batch)
            if not self._outbox:
                self._written.set()

    async def _write_batch(self, client: Client, batch: list[_Outgoing]) -> None:
        for subject, payload, reply, headers in batch:
            try:
                await client.publish(subject, payload, reply, headers)
            except MaxPayloadError:
                log.error("message larger than the broker takes", subject=subject, bytes=len(payload))
            except (Error, OSError) as error:
                log.warning("write to the broker failed", error=repr(error))
                self._lost.set()
                return

    async def _subscribe(self, client: Client, subject: str) -> None:
        callback = self._subscriptions.get(subject)
        if callback is None:  # given up meanwhile
            return

        async def deliver(msg: Msg) -> None:
            callback(Message(msg.subject, msg.reply, msg.data, msg.headers))

        subscription = await client.subscribe(subject, cb=deliver, pending_msgs_limit=0, pending_bytes_limit=0)
        if subject in self._subscriptions:
            self._live[subject] = subscription
        else:
            await subscription.unsubscribe()

    async def _on_error(self, error: Exception) -> None:
        """Called inside nats-py's read loop, which dies if this raises."""
        self._error = error
        if self.connected:
            log.warning("broker error", error=repr(error))
