"""Events, targets and small stand-ins for what the process service talks to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import Raw

from services.process.main import process
from services.process.settings import Settings
from tas_mcp import subjects, targets
from tas_mcp.broker import Message, Publisher, Pulled, Puller
from tas_mcp.documents import Document
from tas_mcp.errors import TasError
from tas_mcp.messages import INBOX, DeadLetter, Delivery, Event, PubAck, Routed, decode_dead_letter, decode_delivery, encode
from tas_mcp.ops import Ops
from tas_mcp.outcomes import Outcomes, Record, Stored
from tas_mcp.service import Runtime
from tests.shared.rig import Broker, linked

decode_routed = msgspec.json.Decoder(list[Routed]).decode


def event(event_type: str = "order.created", data: bytes = b'{"amount": 150}', event_id: str = "e1") -> Event:
    return Event(event_id=event_id, event_type=event_type, source="shop", timestamp=5, accepted_at=7, data=Raw(data))


def document(target_id: str, revision: int = 1, **changes: Any) -> Document:
    """A stored target."""
    given = {"id": target_id, "type": "webhook", "endpoint": "http://localhost:1/", **changes}
    return Document(target_id, revision, targets.encode(targets.check(given)[0]))


def rule(operator: str, value: Any, field: str = "data.amount") -> dict[str, Any]:
    return {"id": f"{operator}-{value}", "conditions": [{"field": field, "operator": operator, "value": value}]}


class Hand:
    """The puller of a message: remembers what it was answered."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []

    def end(self, _: Pulled, answer: bytes) -> None:
        self.answers.append(answer)

    def pulled(
        self, data: bytes, seq: int = 5, delivered: int = 1, subject: str = "tas.events.order.created", inbox: str = ""
    ) -> Pulled:
        head = f"NATS/1.0\r\n{INBOX}: {inbox}\r\n\r\n".encode() if inbox else b""
        message = Message(subject, f"$JS.ACK.EVENTS.process.{delivered}.{seq}.1.1.0", data, head)
        return Pulled(cast(Puller, self), message)


class Published(NamedTuple):
    subject: str
    payload: bytes
    msg_id: str
    settle: Any

    @property
    def delivery(self) -> Delivery:
        return decode_delivery(self.payload)

    @property
    def letter(self) -> DeadLetter:
        return decode_dead_letter(self.payload)


class Stand:
    """What a pipeline publishes to: the test answers."""

    crowded = False

    def __init__(self) -> None:
        self.published: list[Published] = []
        self.refusals: list[TasError] = []

    def publish(self, subject: str, payload: bytes, settle: Any, *, msg_id: str = "", headers: Any = None) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.published.append(Published(subject, payload, msg_id, settle))

    def answer(self, answer: PubAck | TasError) -> Published:
        """Answer the oldest publish."""
        found = self.published.pop(0)
        found.settle(answer)
        return found


class Notes(NamedTuple):
    """Takes records: the test says when they are stored."""

    records: list[tuple[Record, Stored]]
    told: list[tuple[str, Record]]

    def record(self, record: Record, stored: Stored) -> None:
        self.records.append((record, stored))

    def tell(self, inbox: str, record: Record) -> None:
        self.told.append((inbox, record))

    def last(self) -> Routed:
        found = self.records[-1][0]
        assert isinstance(found, Routed)
        return found


def as_publisher(stand: Any) -> Publisher:
    return cast(Publisher, stand)


def as_outcomes(notes: Notes) -> Outcomes:
    return cast(Outcomes, notes)


class Rig(NamedTuple):
    """A process service on a real broker."""

    broker: Broker
    ops: Ops

    async def accept(self, *events: Event) -> None:
        """What ingest does."""
        for each in events:
            await self.broker.publisher.store(subjects.events(each.event_type), encode(each))

    async def deliveries(self) -> list[tuple[str, Delivery]]:
        found = await self.broker.messages(subjects.DELIVERIES)
        return [(subjects.target_id(message.subject), decode_delivery(message.data)) for message in found]

    async def dead(self) -> list[DeadLetter]:
        return [decode_dead_letter(message.data) for message in await self.broker.messages(subjects.DEAD)]

    async def routed(self) -> list[Routed]:
        found = await self.broker.messages(subjects.OUTCOMES)
        return [record for message in found for record in decode_routed(message.data)]

    async def idle(self) -> bool:
        """Whether every event was acked."""
        return await self.broker.unacked(subjects.EVENTS, subjects.PROCESS) == (0, 0)


async def save(broker: Broker, *documents: Document) -> None:
    """What control does."""
    for each in documents:
        assert each.value is not None
        await broker.publisher.store(subjects.bucket_key(subjects.TARGETS_BUCKET, each.key), each.value)


@asynccontextmanager
async def prepared(url: str) -> AsyncIterator[Broker]:
    """A broker with its streams."""
    async with linked(url) as broker:
        await broker.lay_out()
        yield broker


@asynccontextmanager
async def processing(url: str, broker: Broker, **changes: Any) -> AsyncIterator[Rig]:
    """Run the service."""
    settings = Settings(nats_url=url, **changes)
    ops = Ops()
    runtime = Runtime("process", settings, ops)
    async with runtime.running(), process(settings, runtime):
        yield Rig(broker, ops)
