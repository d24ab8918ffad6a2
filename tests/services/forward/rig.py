"""The forward service on a real broker, and a receiver whose behaviour a test chooses."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
from aiohttp import web
from msgspec import Raw

from services.forward.addresses import networks
from services.forward.guard import Guard
from services.forward.main import forward
from services.forward.settings import Settings
from tas_mcp import subjects, targets
from tas_mcp.broker import Message
from tas_mcp.http import application, listening
from tas_mcp.messages import Attempted, DeadLetter, Delivery, Event, decode_dead_letter, decode_delivery, encode
from tas_mcp.ops import Ops
from tas_mcp.service import Runtime
from tas_mcp.targets import Removed
from tests.shared.rig import Broker, linked

LOOPBACK = "127.0.0.0/8,::1"
OPEN = Guard(networks(LOOPBACK))
"""Lets a test's own servers through."""
decode_attempted = msgspec.json.Decoder(list[Attempted]).decode
Status = Callable[[int], int]
"""The status to answer to the n-th request of a path."""


class Receiver:
    """Takes deliveries. ``statuses`` of a path says how it answers; a path of ``held`` answers when its event is set; a health
    check of ``/healthz/<path>`` is answered with its ``health``."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.statuses: dict[str, Status] = {}
        self.headers: dict[str, str] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.health: dict[str, int] = {}
        self.checks: Counter[str] = Counter()
        self.busy: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def got(self, path: str) -> list[str]:
        """The event ids that a path got, in order."""
        return [body["event_id"] for where, _, body in self.seen if where == path]

    def ids(self, path: str) -> list[str]:
        """The webhook-ids that a path got."""
        return [headers["webhook-id"] for where, headers, _ in self.seen if where == path]

    async def check(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        self.checks[path] += 1
        return web.Response(status=self.health.get(path, 200))

    async def take(self, request: web.Request) -> web.Response:
        path = request.path[1:]
        body = msgspec.json.decode(await request.read())
        self.seen.append((path, {name.lower(): value for name, value in request.headers.items()}, body))
        status = self.statuses[path](len(self.got(path))) if path in self.statuses else 200
        self.busy[path] += 1
        self.most[path] = max(self.most[path], self.busy[path])
        try:
            if path in self.held:
                await self.held[path].wait()
        finally:
            self.busy[path] -= 1
        return web.Response(status=status, headers=self.headers, text="so it is")


class Rig(NamedTuple):
    """A broker and a receiver; the forward service runs inside ``forwarding``."""

    url: str
    broker: Broker
    receiver: Receiver

    async def save(self, target_id: str, *, path: str = "", lane: bool = True, **changes: Any) -> None:
        """What control does with a target: its document, its consumer."""
        given = {"id": target_id, "type": "webhook", "endpoint": self.receiver.url(path or target_id), **changes}
        await self.put(target_id, targets.encode(targets.check(given)[0]))
        if lane:
            await self.broker.open_lane(target_id)

    async def remove(self, target_id: str, queue: Any) -> None:
        await self.put(target_id, targets.encode(Removed(id=target_id, queue=queue)))

    async def put(self, target_id: str, value: bytes, headers: dict[str, str] | None = None) -> None:
        await self.broker.publisher.store(subjects.bucket_key(subjects.TARGETS_BUCKET, target_id), value, headers=headers)

    async def owe(self, target_id: str, *seqs: int, data: bytes = b'{"n": 1}', **changes: Any) -> None:
        """What process does: a delivery of the event ``e<seq>``."""
        for seq in seqs:
            owed = Delivery(event=Raw(encode(event(seq, data))), event_seq=seq, revision=1, rule_id="r", **changes)
            await self.broker.publisher.store(subjects.deliveries(target_id), encode(owed))

    async def queued(self, target_id: str) -> int:
        return await self.broker.jetstream.count(subjects.DELIVERIES, subjects.deliveries(target_id))

    async def parked(self, target_id: str) -> list[tuple[Message, Delivery]]:
        found = await self.broker.messages(subjects.DELIVERIES, subjects.all_retries(target_id).removesuffix("*"))
        return [(message, decode_delivery(message.data)) for message in found]

    async def settled(self, target_id: str) -> bool:
        """Whether nothing is owed to the target any more: asked at once, as what is parked comes back at any time."""
        owed = await self.broker.jetstream.subjects(subjects.DELIVERIES, ">")
        retries = subjects.all_retries(target_id).removesuffix("*")
        return not any(subject == subjects.deliveries(target_id) or subject.startswith(retries) for subject in owed)

    async def dead(self, target_id: str = "") -> list[DeadLetter]:
        found = await self.broker.messages(subjects.DEAD, subjects.dead(target_id) if target_id else "")
        return [decode_dead_letter(message.data) for message in found]

    async def outcomes(self, target_id: str) -> list[tuple[int, int, str, int]]:
        """Event sequence, attempt, result and status of each record."""
        return [(each.event_seq, each.number, each.result, each.status) for each in await self.records(target_id)]

    async def records(self, target_id: str) -> list[Attempted]:
        found = await self.broker.messages(subjects.OUTCOMES)
        return [record for message in found for record in decode_attempted(message.data) if record.target_id == target_id]


def event(seq: int, data: bytes = b'{"n": 1}') -> Event:
    return Event(event_id=f"e{seq}", event_type="a.b", source="s", timestamp=1, accepted_at=5, data=Raw(data))


@asynccontextmanager
async def prepared(url: str) -> AsyncIterator[Rig]:
    """A broker with its streams, and a receiver."""
    receiver = Receiver()
    app = application([web.post("/{path}", receiver.take), web.get("/healthz/{path}", receiver.check)], 10_000_000)
    async with linked(url) as broker, listening(app, "127.0.0.1", 0, what="X", drain_seconds=0.1) as receiver.port:
        await broker.lay_out()
        yield Rig(url, broker, receiver)


@asynccontextmanager
async def forwarding(rig: Rig, **changes: Any) -> AsyncIterator[Ops]:
    """Run the service."""
    settings = Settings(nats_url=rig.url, allowed_networks=LOOPBACK, **changes)
    ops = Ops()
    runtime = Runtime("forward", settings, ops)
    async with runtime.running(), forward(settings, runtime):
        yield ops
