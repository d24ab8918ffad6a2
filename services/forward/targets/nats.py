"""Target type ``nats``: messages published to another NATS, into a stream of its JetStream or to whoever listens."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from services.forward import cloudevents
from services.forward.formats import FORMATS
from services.forward.guard import Guard
from services.forward.tls import client_context
from services.forward.verdict import Failed, Refused
from tas_mcp.broker import Connection, Publisher, security
from tas_mcp.errors import Rejected, TasError, Unavailable
from tas_mcp.messages import Event, webhook_id
from tas_mcp.targets import NatsTarget, Tls
from tas_mcp.targets.nats import is_subject, servers
from tas_mcp.targets.text import compile_text, rendered

CONNECT_SECONDS = 2.0
"""How long a delivery waits for the link; it is made in the background, and again when it is lost."""
ACK_SECONDS = 5.0


class NatsMessage(NamedTuple):
    subject: str
    payload: bytes
    headers: dict[str, str]
    id: str
    """Of the message: what a stream de-duplicates by."""


@asynccontextmanager
async def open_nats(target: NatsTarget, guard: Guard) -> AsyncIterator["Nats"]:
    """Open a sender: it connects in the background."""
    config = target.delivery
    login = {
        "user": config.user,
        "password": config.password,
        "token": config.token,
        "nkey": config.nkey,
        "credentials": "\n".join(config.creds.splitlines()),
    }
    async with linked(target.endpoint, login, config.tls, guard, config.jetstream) as link:
        yield Nats(target, link)


class Nats:
    """Publishes what one target gets."""

    def __init__(self, target: NatsTarget, link: "Link") -> None:
        self._target_id = target.id
        self._config = target.delivery
        self._link = link
        self._subject = compile_text(self._config.subject)

    async def send(self, event: Event, trace: str = "") -> int:
        return await self._link.send(self._message(event, trace))

    async def send_text(self, event: Event, text: str, content_type: str | None, trace: str = "") -> int:
        return await self._link.send(self._message(event, trace, text, content_type))

    async def send_batch(self, events: Sequence[Event], trace: str = "") -> list[int | Failed | Refused]:
        return await together([self.send(event, trace) for event in events])

    def _message(self, event: Event, trace: str, text: str | None = None, content_type: str | None = None) -> NatsMessage:
        """The event in its format, or a text instead of it. The forms of a CloudEvent are those of its NATS binding 1.0.2.

        Raises:
            Refused: the template does not give a subject.
        """
        try:
            subject = rendered(self._subject, event, is_subject, "config.subject")
        except ValueError as error:
            raise Refused(400, str(error)) from None
        own = {"webhook-id": webhook_id(event), "content-type": content_type or cloudevents.DATA}
        if self._config.format == "cloudevents-binary":
            own |= {f"ce-{name}": cloudevents.header(value) for name, value in cloudevents.texts(event).items()}
            own["content-type"] = content_type or cloudevents.data_type(event)
            payload = cloudevents.payload(event)
        elif self._config.format == "cloudevents":
            own["content-type"] = content_type or cloudevents.STRUCTURED
            payload = cloudevents.structured(event)
        else:
            payload = FORMATS[self._config.format](event)
        if text is not None:
            payload = text.encode()
        if trace:
            own["traceparent"] = trace
        return NatsMessage(subject, payload, {**own, **self._config.headers}, message_id(event, self._target_id))


def message_id(event: Event, target_id: str) -> str:
    """The same for every attempt of a delivery; another for each target, as two may write into one stream."""
    return f"{webhook_id(event)}:{target_id}"


class Link:
    """The connection to the servers of a target. Publishes are in flight together."""

    def __init__(self, connection: Connection, publisher: Publisher | None) -> None:
        self._connection = connection
        self._publisher = publisher
        self._losses = 0

    def lost(self) -> None:
        self._losses += 1

    async def send(self, message: NatsMessage) -> int:
        """Publish, and wait until it is stored, or read.

        Raises:
            Refused: it is too large for the server.
            Failed: it was not stored, or is not known to be.
        """
        await self._up()
        try:
            if self._publisher is not None:
                await self._publisher.store(message.subject, message.payload, msg_id=message.id, headers=message.headers)
            else:
                losses = self._losses
                self._connection.send(message.subject, message.payload, headers={**message.headers, "Nats-Msg-Id": message.id})
                await self._connection.flush()
                if self._losses != losses:
                    raise Failed(0, "the connection was lost before the server had read the message")
        except (Failed, Refused):
            raise
        except TasError as error:
            raise _verdict(error) from None
        return 200

    async def _up(self) -> None:
        if self._connection.connected:
            return
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._connection.ready()
        except TimeoutError:
            raise Failed(0, self._connection.trouble) from None


async def together(sends: Sequence[Awaitable[int]]) -> list[int | Failed | Refused]:
    """What came of each of some sends that are in flight at once."""
    outcomes: list[int | Failed | Refused] = []
    for outcome in await asyncio.gather(*sends, return_exceptions=True):
        if not isinstance(outcome, int | Failed | Refused):
            raise outcome
        outcomes.append(outcome)
    return outcomes


@asynccontextmanager
async def linked(endpoint: str, login: dict[str, str], tls: Tls | None, guard: Guard, jetstream: bool) -> AsyncIterator[Link]:
    """Keep a link to one of the servers, taken in turn, at an address that the guard gave."""
    secure = tls is not None or endpoint.startswith("tls:")
    turns = itertools.cycle(servers(endpoint))

    async def where() -> tuple[list[str], str]:
        host, port = next(turns)
        try:
            found = await guard.resolve(host, port)
        except (Failed, Refused, UnicodeError) as error:
            raise OSError(f"{host}: {error}") from None
        address = str(found[0][4][0])
        return [f"{'tls' if secure else 'nats'}://{f'[{address}]' if ':' in address else address}:{port}"], host

    context = client_context(tls) if secure else None
    encrypted = security.Tls(lambda: context) if context else None
    connection = Connection(endpoint.split(","), "tas-target", tls=encrypted, where=where, **login)
    publisher = Publisher(connection, deadline=ACK_SECONDS) if jetstream else None
    link = Link(connection, publisher)
    with connection.watched(down=link.lost):
        async with connection.running():
            if publisher is None:
                yield link
            else:
                async with publisher.running():
                    yield link


def _verdict(error: TasError) -> Failed | Refused:
    if isinstance(error, Rejected):
        return Refused(413 if error.code == "TOO_LARGE" else 400, error.detail)
    return Failed(503, error.detail, error.retry_after if isinstance(error, Unavailable) else 0.0)
