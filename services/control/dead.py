"""The dead letters: read, put back, thrown away."""

import time
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from services.control.store import Store
from tas_mcp import subjects, telemetry
from tas_mcp.broker import JetStream, Message, Publisher
from tas_mcp.errors import Rejected
from tas_mcp.messages import DeadLetter, Delivery, Event, decode_dead_letter, decode_event, encode, event_key, lacks_data
from tas_mcp.routing import TransformFailed, View, compile_transform
from tas_mcp.targets import AnyTarget

log = telemetry.logger("dead")

LOOKED_AT = 5000
REDRIVEN = telemetry.counter("mcp_redriven_dead_letters", "Dead letters that were put back")
UNREADABLE = "unreadable"
"""The reason of a letter whose message was no event or no delivery: there is nothing in it to put back."""


INPUT_KEPT = ("transform_failed", "output_too_large")
"""The reasons for which ``process`` keeps the event as it came, as nothing was made of it that could be kept."""


class Letter(NamedTuple):
    """A stored dead letter. ``body`` is None where it cannot be read (``flaw`` says why)."""

    seq: int
    target_id: str
    body: DeadLetter | None
    flaw: str = ""

    @property
    def event(self) -> Event | None:
        return decode_event(self.body.delivery.event) if self.body else None

    def shown(self) -> dict[str, Any]:
        """As the API shows it."""
        found: dict[str, Any] = {"id": str(self.seq), "target_id": self.target_id}
        if self.body is None:
            return {**found, "event_id": "", "reason": UNREADABLE, "detail": self.flaw, "attempts": [], "event": None, "at": None}
        body = self.body
        return {
            **found,
            "event_id": body.event_id,
            "reason": body.reason,
            "detail": body.detail,
            "attempts": body.delivery.attempts,
            "event": body.delivery.event,
            **({"body": body.delivery.body} if body.delivery.body is not None else {}),
            "at": body.at,
            "event_seq": body.delivery.event_seq,
            "rule_id": body.delivery.rule_id,
            "revision": body.delivery.revision,
            "redrives": body.delivery.redrives,
        }


class Wanted(NamedTuple):
    """Which letters are meant; None: any."""

    target_id: str | None = None
    reason: str | None = None
    event_type: str | None = None

    def takes(self, letter: Letter) -> bool:
        if self.reason is not None and self.reason != (letter.body.reason if letter.body else UNREADABLE):
            return False
        if self.event_type is None:
            return True
        return (event := letter.event) is not None and event.event_type == self.event_type


class DeadLetters:
    """The letters of all targets, by their sequence in DEAD."""

    def __init__(self, jetstream: JetStream, publisher: Publisher, store: Store) -> None:
        self._jetstream = jetstream
        self._publisher = publisher
        self._store = store

    async def page(self, wanted: Wanted, start: int, limit: int) -> tuple[list[Letter], int | None]:
        """At most ``limit`` wanted letters from sequence ``start`` on, and where the next page starts. A page may hold fewer, or
        none, and not be the last: no more than ``LOOKED_AT`` letters are looked at for it."""
        found: list[Letter] = []
        following: int | None = start
        looked_at = 0
        while following is not None and len(found) < limit and looked_at < LOOKED_AT:
            letters, following = await self._read(wanted.target_id, following, limit - len(found))
            looked_at += len(letters)
            found += filter(wanted.takes, letters)
        return found, following

    async def _read(self, target_id: str | None, start: int, limit: int) -> tuple[list[Letter], int | None]:
        subject = subjects.ALL_DEAD if target_id is None else subjects.dead(target_id)
        found, following = await self._jetstream.page(subjects.DEAD, subject, start, limit)
        letters = [_letter(each.sequence, each.headers["Nats-Subject"], each) for each in found]
        return letters, following

    async def get(self, seq: int) -> Letter:
        """One letter.

        Raises:
            Rejected: ``NOT_FOUND``.
        """
        message = await self._jetstream.message(subjects.DEAD, seq)
        if message is None:
            raise missing(seq)
        return _letter(seq, message.subject, message)

    async def discard(self, seq: int) -> None:
        if not await self._jetstream.delete_message(subjects.DEAD, seq):
            raise missing(seq)
        log.warning("dead letter discarded", id=seq)

    async def redrive(self, letter: Letter) -> None:
        """Put it back where it came from, then delete it here. Its message id is made so that only the same redrive, tried twice,
        is taken for a duplicate.

        Raises:
            Rejected: ``CONFLICT``: it cannot be put back, and why.
        """
        body = letter.body
        if body is None or body.reason == UNREADABLE:
            raise Rejected("CONFLICT", f"dead letter {letter.seq} holds nothing that could be read, so nothing to put back")
        event = await self._event(letter.seq, body)
        if body.target_id == subjects.POISON:
            await self._put_event_back(letter.seq, event)
        else:
            await self._put_delivery_back(body, event)
        await self._jetstream.delete_message(subjects.DEAD, letter.seq)
        REDRIVEN.inc()
        log.info("dead letter redriven", id=letter.seq, target=body.target_id, event_id=body.event_id)

    async def _put_delivery_back(self, body: DeadLetter, event: Raw) -> None:
        target = (await self._store.get(body.target_id)).target
        if target is None:
            raise Rejected("CONFLICT", f"there is no target {body.target_id!r} any more; create it, then redrive")
        redrives = body.delivery.redrives + 1
        at = time.time()
        delivery = msgspec.structs.replace(body.delivery, event=event, attempts=[], redrives=redrives, redriven_at=at)
        if _untransformed(body):
            delivery = _transformed(delivery, target)
        msg_id = f"{delivery.event_seq}:{body.target_id}:r{redrives}"
        await self._publisher.store(subjects.deliveries(body.target_id), encode(delivery), msg_id=msg_id)

    async def _put_event_back(self, seq: int, raw: Raw) -> None:
        """An event that killed its worker: once more through the rules. If it does so again, that letter is a new one, hence this
        letter's sequence in the id."""
        event = decode_event(raw)
        msg_id = f"{event_key(event.source, event.event_id)}:r{seq}"
        await self._publisher.store(subjects.events(event.event_type), bytes(raw), msg_id=msg_id)

    async def _event(self, seq: int, body: DeadLetter) -> Raw:
        """The letter's event. One that was too large for its letter was stored there without its data, which is in EVENTS."""
        if not lacks_data(body):
            return body.delivery.event
        stored = await self._jetstream.message(subjects.EVENTS, body.delivery.event_seq)
        if stored is None:
            raise Rejected("CONFLICT", f"dead letter {seq} was stored without its data, which is not in EVENTS any more")
        return Raw(stored.data)


def _untransformed(body: DeadLetter) -> bool:
    """Whether a letter holds its event as it came, before the transform of its rule."""
    return lacks_data(body) or (body.reason in INPUT_KEPT and not body.delivery.attempts)


def _transformed(delivery: Delivery, target: AnyTarget) -> Delivery:
    """What the target is owed, made by the rule that decided as it is now.

    Raises:
        Rejected: ``CONFLICT``: the rule is gone, or its transform still fails.
    """
    if not delivery.rule_id:
        return delivery
    rule = next((rule for rule in target.rules or () if rule.id == delivery.rule_id), None)
    if rule is None:
        raise Rejected(
            "CONFLICT", f"the target has no rule {delivery.rule_id!r} any more, which would have to transform the event"
        )
    if rule.transform is None:
        return delivery
    try:
        output = compile_transform(rule.transform)(View(decode_event(delivery.event)))
    except TransformFailed as error:
        raise Rejected("CONFLICT", f"the transform of rule {rule.id!r} still fails: {error}") from None
    made = Raw(encode(output.event))
    return msgspec.structs.replace(delivery, event=made, body=output.body, content_type=output.content_type)


def _letter(seq: int, subject: str, message: Message) -> Letter:
    target_id = subjects.target_id(subject)
    try:
        return Letter(seq, target_id, decode_dead_letter(message.data))
    except (msgspec.MsgspecError, ValueError) as error:
        return Letter(seq, target_id, None, str(error))


def missing(seq: int) -> Rejected:
    return Rejected("NOT_FOUND", f"there is no dead letter {seq}")
