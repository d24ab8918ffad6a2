"""The lane of one target: everything that is common to all target types.

    pull -> send -> delivered -> record the attempt -> ack
                 -> failed    -> park until the next attempt, or dead letter -> record the attempt -> ack
                 -> refused   -> dead letter -> record the attempt -> ack

A delivery is acked after what follows from it is stored, never before; while that cannot be stored the lane holds it, marked in
progress, does not send it again, and by that soon stops pulling.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
from msgspec import Raw

from services.forward.counted import Counted
from services.forward.guard import Guard
from services.forward.retry import rfc3339, wait
from services.forward.targets import Sender, TextSender, open_sender
from services.forward.verdict import Failed, Refused
from tas_mcp import subjects, telemetry
from tas_mcp.broker import Connection, JetStream, Publisher, Pulled, Puller
from tas_mcp.errors import Rejected, Unavailable
from tas_mcp.messages import (
    Attempt,
    Attempted,
    DeadLetter,
    Delivery,
    Event,
    PubAck,
    decode_delivery,
    decode_event,
    encode,
    without_data,
)
from tas_mcp.outcomes import Outcomes
from tas_mcp.targets import AnyTarget, Removed

log = telemetry.logger("lane")

HELD = 1000
"""How many deliveries a lane holds at most; with less concurrency, four times that: what can be sent well within ack_wait."""
REMOVAL_CONCURRENCY = 64
AGAIN_SECONDS = 0.5
ERROR_CHARACTERS = 300


class Lane:
    """Delivers to one target. ``use`` changes the target while it runs."""

    def __init__(
        self, connection: Connection, publisher: Publisher, outcomes: Outcomes, guard: Guard, target: AnyTarget | Removed
    ) -> None:
        self._guard = guard
        self._jetstream = JetStream(connection)
        self._publisher = publisher
        self._outcomes = outcomes
        self._target = target
        self._sender: Sender | None = None
        self._senders = AsyncExitStack()
        self._retired: set[asyncio.Task[None]] = set()
        self._counted = Counted(target.id)
        self._waiting: deque[Pulled] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._deadlines: dict[asyncio.Task[None] | None, float] = {}
        self._overdue: set[asyncio.Task[None] | None] = set()
        self._busy = asyncio.Event()
        self._concurrency = 1
        self._puller = Puller(
            connection,
            subjects.DELIVERIES,
            subjects.forward_consumer(target.id),
            self._take,
            limit=HELD,
        )

    @property
    def trouble(self) -> str:
        return self._puller.trouble

    async def use(self, target: AnyTarget | Removed) -> None:
        """Take the target as it is now: its new connections are opened first, the old ones closed when nothing can use them any
        more."""
        senders = AsyncExitStack()
        sender = None if isinstance(target, Removed) else await senders.enter_async_context(open_sender(target, self._guard))
        old, seconds = self._senders, 0.0 if isinstance(self._target, Removed) else self._target.delivery.timeout
        self._target, self._sender, self._senders = target, sender, senders
        if isinstance(target, Removed):
            self._concurrency = REMOVAL_CONCURRENCY
            self._puller.resume()
        else:
            self._concurrency = target.delivery.concurrency
            self._puller.resize(min(HELD, 4 * self._concurrency))
            if target.paused:
                self._puller.pause()
                while self._waiting:
                    self._waiting.pop().nak()
            else:
                self._puller.resume()
        self._start_workers()
        retiring = asyncio.create_task(_close_after(old, seconds))
        self._retired.add(retiring)
        retiring.add_done_callback(self._retired.discard)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Lane"]:
        """Pull and deliver while inside; leaving finishes what is held (the caller bounds the wait)."""
        await self.use(self._target)
        ticker = asyncio.create_task(self._tick())
        try:
            async with self._puller.running():
                yield self
        finally:
            for task in (ticker, *self._workers, *self._retired):
                task.cancel()
            await asyncio.gather(ticker, *self._workers, *self._retired, return_exceptions=True)
            await self._senders.aclose()
            self._counted.forget()

    def _take(self, pulled: Pulled) -> None:
        if not isinstance(self._target, Removed) and self._target.paused:
            pulled.nak()  # it was asked for before the pause
            return
        self._waiting.append(pulled)
        self._start_workers()

    def _start_workers(self) -> None:
        """A worker lives as long as something waits, so that an idle lane has none and a busy one makes no task per delivery."""
        while len(self._workers) < min(self._concurrency, len(self._workers) + len(self._waiting)):
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)

    async def _work(self) -> None:
        try:
            while self._waiting and len(self._workers) <= self._concurrency:
                pulled = self._waiting.popleft()
                try:
                    await self._handle(pulled)
                except Exception:
                    log.exception("delivery not handled; it will be handed out again", target=self._target.id, seq=pulled.seq)
                    pulled.nak()
        finally:  # at once: what comes before the task's callback would find a worker, and wait for one that has ended
            self._workers.discard(asyncio.current_task())

    async def _handle(self, pulled: Pulled) -> None:
        try:
            delivery = decode_delivery(pulled.data)
            event = decode_event(delivery.event)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            await self._unreadable(pulled, str(error))
            return
        target, sender = self._target, self._sender
        if isinstance(target, Removed) or sender is None:
            await self._remove(pulled, delivery, event, discard=isinstance(target, Removed) and target.queue == "discard")
            return
        attempt, failure = await self._attempt(target, sender, delivery, event)
        if failure is None:
            self._counted.delivered(attempt, time.time() - event.accepted_at / 1e9)
            self._record(pulled, delivery, event, attempt, "delivered")
            return
        delivery.attempts.append(attempt)
        self._counted.failed(attempt)
        seconds, reason = None, "refused"
        if isinstance(failure, Failed):
            schedule, reason = target.delivery.retry.schedule, "attempts_exhausted"
            seconds = wait(schedule, len(delivery.attempts), failure.retry_after, random.random)
        if seconds is not None:
            try:
                await self._park(delivery, attempt.at + attempt.duration_ms / 1e3 + seconds)
            except Rejected:  # too large with its history
                seconds, reason = None, "output_too_large"
        if seconds is not None:
            self._counted.retried()
            self._record(pulled, delivery, event, attempt, "retrying")
        else:
            await self._bury(delivery, event, reason, attempt.error)
            self._record(pulled, delivery, event, attempt, "dead")
        log.warning(
            "delivery failed",
            target=target.id,
            event_id=event.event_id,
            attempt=attempt.number,
            status=attempt.status,
            error=attempt.error,
            duration_ms=round(attempt.duration_ms, 1),
            next_in_seconds=None if seconds is None else round(seconds, 1),
        )

    async def _attempt(
        self, target: AnyTarget, sender: Sender, delivery: Delivery, event: Event
    ) -> tuple[Attempt, Failed | Refused | None]:
        """Try once, within the target's timeout."""
        at, began = time.time(), time.perf_counter()
        failure: Failed | Refused | None = None
        status = 0
        worker = asyncio.current_task()
        self._deadlines[worker] = began + target.delivery.timeout
        self._busy.set()
        try:
            status = await _send(sender, delivery, event)
        except (Failed, Refused) as error:
            failure, status = error, error.status
        except asyncio.CancelledError:
            if worker not in self._overdue or worker is None:
                raise
            worker.uncancel()
            failure = Failed(0, f"no answer within {target.delivery.timeout}")
        finally:
            del self._deadlines[worker]
            self._overdue.discard(worker)
        duration = (time.perf_counter() - began) * 1e3
        text = failure.detail[:ERROR_CHARACTERS] if failure else ""
        number = len(delivery.attempts) + 1
        return Attempt(number=number, at=at, duration_ms=duration, status=status, error=text), failure

    async def _tick(self) -> None:
        """Cancel attempts that are over their timeout (to a twentieth): one timer for all, as one for each costs a tenth of a
        delivery. A worker with a deadline is inside ``send``, so that is where it is cancelled, and nowhere else."""
        while True:
            if not self._deadlines:
                self._busy.clear()
                await self._busy.wait()
            now = time.perf_counter()
            for worker, deadline in self._deadlines.items():
                if deadline < now and worker is not None and worker not in self._overdue:
                    self._overdue.add(worker)
                    worker.cancel()
            seconds = 0.0 if isinstance(self._target, Removed) else self._target.delivery.timeout
            await asyncio.sleep(min(0.25, max(0.01, seconds / 20)))

    async def _park(self, delivery: Delivery, at: float) -> None:
        """Have the broker put the delivery back at a time. The same subject replaces a schedule of the same delivery, hence no
        message id: one would be taken for a duplicate when an attempt is made twice, and not be stored."""
        headers = {
            "Nats-Schedule": "@at " + rfc3339(at),
            "Nats-Schedule-Target": subjects.deliveries(self._target.id),
        }
        await self._store(subjects.retries(self._target.id, delivery.event_seq), encode(delivery), headers=headers)

    async def _bury(self, delivery: Delivery, event: Event, reason: str, detail: str, msg_id: str = "") -> None:
        """Store the delivery as a dead letter."""
        letter = DeadLetter(
            target_id=self._target.id,
            event_id=event.event_id,
            reason=reason,
            detail=detail,
            at=time.time(),
            delivery=delivery,
        )
        subject = subjects.dead(self._target.id)
        msg_id = msg_id or f"{delivery.event_seq}:{self._target.id}:d{delivery.redrives}"
        try:
            ack = await self._store(subject, encode(letter), msg_id=msg_id)
        except Rejected as error:  # too large by its history: keep all but the data, which is still in EVENTS
            letter = without_data(letter, event, error.detail)
            ack = await self._store(subject, encode(letter))
        if ack.duplicate and await self._jetstream.message(subjects.DEAD, ack.seq) is None:
            await self._store(subject, encode(letter))  # the twin was redriven or discarded meanwhile
        self._counted.died()

    async def _store(self, subject: str, payload: bytes, *, msg_id: str = "", headers: dict[str, str] | None = None) -> PubAck:
        """Publish until it is stored."""
        while True:
            try:
                return await self._publisher.store(subject, payload, msg_id=msg_id, headers=headers)
            except Unavailable as error:
                log.warning("not stored, trying again", subject=subject, detail=error.detail)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _remove(self, pulled: Pulled, delivery: Delivery, event: Event, *, discard: bool) -> None:
        """The target was deleted: what was owed to it is dead, or dropped where its owner said so."""
        attempt = Attempt(number=len(delivery.attempts), at=time.time(), duration_ms=0.0, error="target removed")
        if discard:
            self._record(pulled, delivery, event, attempt, "dropped")
            return
        await self._bury(delivery, event, "target_removed", "the target was deleted")
        self._record(pulled, delivery, event, attempt, "dead")

    async def _unreadable(self, pulled: Pulled, detail: str) -> None:
        """A message that is no delivery (written by hand?): kept for people to see."""
        log.error("unreadable delivery", target=self._target.id, seq=pulled.seq, detail=detail)
        event = Event(
            event_id=f"delivery-{pulled.seq}", event_type="", source="", timestamp=0, accepted_at=0, data=Raw(encode(pulled.data))
        )
        delivery = Delivery(event=Raw(encode(event)), event_seq=0, revision=0)
        await self._bury(delivery, event, "unreadable", detail, f"{event.event_id}:{self._target.id}")
        pulled.ack()

    def _record(self, pulled: Pulled, delivery: Delivery, event: Event, attempt: Attempt, result: str) -> None:
        """Account for the attempt, then ack."""
        record = Attempted(
            delivery.event_seq,
            event.event_id,
            event.accepted_at,
            self._target.id,
            delivery.revision,
            attempt.number,
            result,
            attempt.status,
            round(attempt.duration_ms, 3),
            attempt.at,
            attempt.error,
        )
        self._outcomes.record(record, pulled.ack)


async def _send(sender: Sender, delivery: Delivery, event: Event) -> int:
    if delivery.body is None:
        return await sender.send(event)
    if isinstance(sender, TextSender):
        return await sender.send_text(event, delivery.body, delivery.content_type)
    raise Refused(400, "the text of a template was queued for the target, whose type sends events")


async def _close_after(senders: AsyncExitStack, seconds: float) -> None:
    """Close connections once no attempt that began on them can still run."""
    await asyncio.sleep(seconds)
    await senders.aclose()
