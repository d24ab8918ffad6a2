"""The control service on a real broker, its API on a real port, and what tests do to both."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import aiohttp
from msgspec import Raw

from services.control.main import control
from services.control.settings import Settings
from tas_mcp import subjects
from tas_mcp.broker import Connection, JetStream, Publisher, Pulled, Puller
from tas_mcp.errors import Rejected, Unavailable
from tas_mcp.http import application, listening
from tas_mcp.messages import Attempt, DeadLetter, Delivery, Event, Presence, encode
from tas_mcp.ops import Ops
from tas_mcp.service import Runtime

TARGETS = "/api/v1/forwarding/targets"
DEAD = "/api/v1/dead-letters"
SCHEMAS = "/api/v1/schemas"
REJECTED = "/api/v1/rejected"
KEYS = "/api/v1/keys"
POLL_SECONDS = 60.0
"""A machine may be slow; only what never comes takes so long."""
ADMIN = "an-admin-key-of-at-least-32-characters"
"""The bootstrap key of a rig that asks for keys."""


class Answer(NamedTuple):
    status: int
    body: Any
    headers: Any


class Rig(NamedTuple):
    """A running control service."""

    base: str
    session: aiohttp.ClientSession
    connection: Connection
    jetstream: JetStream
    publisher: Publisher
    ops: Ops

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        async with self.session.request(method, self.base + path, **options) as answer:
            return Answer(answer.status, await answer.json(content_type=None), answer.headers)

    async def call_with(self, key: str, method: str, path: str, **options: Any) -> Answer:
        """With an API key."""
        return await self.call(method, path, headers={"Authorization": f"Bearer {key}"}, **options)

    async def deliver(self, target_id: str, seq: int = 1) -> None:
        """What process does: a delivery for the target."""
        await self.publisher.store(subjects.deliveries(target_id), encode(delivery(seq)))

    async def park(self, target_id: str, seq: int, seconds: float) -> None:
        """What forward does: a retry that falls due in ``seconds``."""
        at = datetime.fromtimestamp(time.time() + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        headers = {"Nats-Schedule": "@at " + at, "Nats-Schedule-Target": subjects.deliveries(target_id)}
        await self.publisher.store(subjects.retries(target_id, seq), encode(delivery(seq)), headers=headers)

    async def bury(self, target_id: str, seq: int, **changes: Any) -> int:
        """A dead letter; its sequence."""
        return (await self.publisher.store(subjects.dead(target_id), encode(letter(target_id, seq, **changes)))).seq

    def announce(self, revision: int, instance: str = "p1", leaving: bool = False) -> None:
        """What a process replica says."""
        presence = Presence("process", instance, revision, leaving)
        self.connection.send(subjects.presence("process", instance), encode(presence))

    async def consumer(self, target_id: str) -> dict[str, Any]:
        return await self.jetstream.consumer_info(subjects.DELIVERIES, subjects.forward_consumer(target_id))

    async def stored(self, stream: str, subject: str) -> int:
        return await self.jetstream.count(stream, subject)

    @asynccontextmanager
    async def pulling(self, stream: str, consumer: str) -> AsyncIterator[list[Pulled]]:
        """What arrives at a consumer; the test acks. What it does not ack is given back at the end."""
        found: list[Pulled] = []
        puller = Puller(self.connection, stream, consumer, found.append, limit=100)
        async with puller.running():
            yield found
            for pulled in found:
                pulled.nak()


def event(seq: int = 1) -> Event:
    return Event(event_id=f"e{seq}", event_type="a.b", source="s", timestamp=1, accepted_at=1, data=Raw(b'{"n":1}'))


def delivery(seq: int = 1) -> Delivery:
    return Delivery(event=Raw(encode(event(seq))), event_seq=seq, revision=1)


def letter(target_id: str, seq: int, **changes: Any) -> DeadLetter:
    body = delivery(seq)
    body.attempts.append(Attempt(number=1, at=1.0, duration_ms=2.0, status=500, error="no"))
    values = {"reason": "attempts_exhausted", "detail": "no", "at": 3.0, "delivery": body, **changes}
    return DeadLetter(target_id=target_id, event_id=f"e{seq}", **values)


def target(target_id: str = "orders", **changes: Any) -> dict[str, Any]:
    return {"id": target_id, "type": "webhook", "endpoint": "http://localhost:1/hook", **changes}


@asynccontextmanager
async def running(url: str, **changes: Any) -> AsyncIterator[Rig]:
    """Serve; the janitor makes a round every 50 ms unless ``changes`` say otherwise."""
    settings = Settings(**{"nats_url": url, "auth": "none", "store_bytes": 100 * 1024**2, "janitor_seconds": 0.05, **changes})
    ops = Ops()
    runtime = Runtime("control", settings, ops)
    async with runtime.running(), control(settings, runtime):
        app = application(runtime.routes, runtime.max_body)
        door = listening(app, "127.0.0.1", 0, what="TAS_HTTP_PORT", drain_seconds=1)
        async with door as port, aiohttp.ClientSession() as session:
            jetstream = JetStream(runtime.connection)
            yield Rig(f"http://127.0.0.1:{port}", session, runtime.connection, jetstream, runtime.publisher, ops)


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = POLL_SECONDS) -> Any:
    """Ask until the answer is true; fail when it never is. What the broker cannot say yet is asked again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = await condition()
        except (Unavailable, Rejected):
            found = None
        if found:
            return found
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.02)
