"""The lane of one target: everything that is common to all target types.

    pull -> send -> delivered -> record the attempt -> ack
                 -> failed    -> park until the next attempt, or dead letter -> record the attempt -> ack
                 -> refused   -> dead letter -> record the attempt -> ack

A delivery is acked after what follows from it is stored, never before; while that cannot be stored the lane holds it, marked in
progress, does not send it again, and by that soon stops pulling. How many are under way at once is the gate's to say; at none
(paused, down, gone) the lane gives back what waits, and stops pulling.
"""

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
from msgspec import Raw

from services.forward.counted import Counted
from services.forward.gate import Gate
from services.forward.guard import Guard
from services.forward.rate import Rate
from services.forward.retry import wait
from services.forward.statuses import Statuses
from services.forward.storage import Storage
from services.forward.targets import Sender, TextSender, open_sender
from services.forward.verdict import Failed, Gone, Refused
from tas_mcp import subjects, telemetry
from tas_mcp.broker import Connection, JetStream, Publisher, Pulled, Puller
from tas_mcp.errors import Rejected
from tas_mcp.messages import (
    Attempt,
    Attempted,
    Delivery,
    Event,
    decode_delivery,
    decode_event,
    encode,
)
from tas_mcp.outcomes import Outcomes
from tas_mcp.targets import AnyTarget, Removed

log = telemetry.logger("lane")

HELD = 1000
"""How many deliveries a lane holds at most; with less concurrency, four times that: what can be sent well within ack_wait."""
ERROR_CHARACTERS = 300


class Lane:
    """Delivers to one target. ``use`` changes the target while it runs."""

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        outcomes: Outcomes,
        statuses: Statuses,
        guard: Guard,
        target: AnyTarget | Removed,
    ) -> None:
        jetstream = JetStream(connection)
        self._guard = guard
        self._storage = Storage(jetstream, publisher, target.id)
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
        self._gate = Gate(target, statuses, self._adjust)
        self._rate: Rate | None = None
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
        limit = None if isinstance(target, Removed) else target.delivery.rate_limit
        self._rate = Rate(limit.requests_per_second, limit.burst or max(1.0, limit.requests_per_second)) if limit else None
        self._gate.use(target)
        retiring = asyncio.create_task(_close_after(old, seconds))
        self._retired.add(retiring)
        retiring.add_done_callback(self._retired.discard)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Lane"]:
        """Pull and deliver while inside; leaving finishes what is held (the caller bounds the wait)."""
        await self.use(self._target)
        self._gate.open()
        ticker = asyncio.create_task(self._tick())
        try:
            async with self._puller.running():
                yield self
        finally:
            for task in (ticker, *self._workers, *self._retired):
                task.cancel()
            await asyncio.gather(ticker, *self._workers, *self._retired, return_exceptions=True)
            await self._senders.aclose()
            self._gate.close()
            self._counted.forget()

    def _take(self, pulled: Pulled) -> None:
        if not self._gate.width:
            pulled.nak()  # it was asked for before the gate closed
            return
        self._waiting.append(pulled)
        self._start_workers()

    def _adjust(self) -> None:
        """Follow the gate."""
        width = self._gate.width
        if width:
            self._puller.resize(min(HELD, 4 * width))
            self._puller.resume()
            self._start_workers()
        else:
            self._puller.pause()
            while self._waiting:
                self._waiting.pop().nak()

    def _start_workers(self) -> None:
        """A worker lives as long as something waits, so that an idle lane has none and a busy one makes no task per delivery."""
        while len(self._workers) < min(self._gate.width, len(self._workers) + len(self._waiting)):
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)

    async def _work(self) -> None:
        try:
            while self._waiting and len(self._workers) <= self._gate.width:
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
        if self._rate is not None and (seconds := self._rate.take(time.monotonic())):
            await asyncio.sleep(seconds)
        if not self._gate.width or (self._gate.probing and not await self._gate.probe()):
            pulled.nak()  # the gate closed meanwhile, or another replica is trying
            return
        target, sender = self._target, self._sender
        if isinstance(target, Removed) or sender is None:
            await self._remove(pulled, delivery, event, discard=isinstance(target, Removed) and target.queue == "discard")
            return
        until = expiry(target, delivery, event)
        if time.time() > until:
            await self._give_up(pulled, delivery, event, "expired", "it was not delivered in time (expires)")
            return
        attempt, failure = await self._attempt(target, sender, delivery, event)
        if failure is None:
            self._gate.delivered(attempt.duration_ms / 1e3, len(self._workers))
            self._counted.delivered(attempt, time.time() - event.accepted_at / 1e9)
            self._record(pulled, delivery, event, attempt, "delivered")
            return
        self._counted.failed(attempt)
        self._gate.failed(failure)
        if isinstance(failure, Gone):
            await self._gate.disable(failure)
            self._record(pulled, delivery, event, attempt, "gone", pulled.nak)  # it stays in the queue, as all the others
            return
        delivery.attempts.append(attempt)
        await self._follow_up(pulled, delivery, event, target, failure, until)

    async def _follow_up(
        self, pulled: Pulled, delivery: Delivery, event: Event, target: AnyTarget, failure: Failed | Refused, until: float
    ) -> None:
        """Park a delivery whose last attempt failed, or give it up."""
        attempt = delivery.attempts[-1]
        ended = attempt.at + attempt.duration_ms / 1e3
        seconds, reason = None, "refused"
        if isinstance(failure, Failed):
            reason = "attempts_exhausted"
            elapsed = ended - delivery.attempts[0].at
            seconds = wait(target.delivery.retry, len(delivery.attempts), failure.retry_after, elapsed, random.random)
            if seconds is not None and ended + seconds > until:
                seconds, reason = None, "expired"
        if seconds is not None:
            try:
                await self._storage.park(delivery, ended + seconds)
            except Rejected:  # too large with its history
                seconds, reason = None, "output_too_large"
        if seconds is not None:
            self._counted.retried()
            self._record(pulled, delivery, event, attempt, "retrying")
        else:
            await self._storage.bury(delivery, event, reason, attempt.error)
            self._counted.died()
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

    async def _remove(self, pulled: Pulled, delivery: Delivery, event: Event, *, discard: bool) -> None:
        """The target was deleted: what was owed to it is dead, or dropped where its owner said so."""
        if not discard:
            await self._give_up(pulled, delivery, event, "target_removed", "the target was deleted")
            return
        attempt = Attempt(number=len(delivery.attempts), at=time.time(), duration_ms=0.0, error="target removed")
        self._record(pulled, delivery, event, attempt, "dropped")

    async def _give_up(self, pulled: Pulled, delivery: Delivery, event: Event, reason: str, detail: str) -> None:
        """A dead letter without another attempt."""
        attempt = Attempt(number=len(delivery.attempts), at=time.time(), duration_ms=0.0, error=detail)
        await self._storage.bury(delivery, event, reason, detail)
        self._counted.died()
        self._record(pulled, delivery, event, attempt, "dead")

    async def _unreadable(self, pulled: Pulled, detail: str) -> None:
        """A message that is no delivery (written by hand?): kept for people to see."""
        log.error("unreadable delivery", target=self._target.id, seq=pulled.seq, detail=detail)
        event = Event(
            event_id=f"delivery-{pulled.seq}", event_type="", source="", timestamp=0, accepted_at=0, data=Raw(encode(pulled.data))
        )
        delivery = Delivery(event=Raw(encode(event)), event_seq=0, revision=0)
        await self._storage.bury(delivery, event, "unreadable", detail, f"{event.event_id}:{self._target.id}")
        self._counted.died()
        pulled.ack()

    def _record(
        self,
        pulled: Pulled,
        delivery: Delivery,
        event: Event,
        attempt: Attempt,
        result: str,
        done: Callable[[], None] | None = None,
    ) -> None:
        """Account for the attempt, then ack (or what ``done`` does)."""
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
        self._outcomes.record(record, done or pulled.ack)


def expiry(target: AnyTarget, delivery: Delivery, event: Event) -> float:
    """When a delivery is too old to be tried: counted from its event's acceptance, or its last redrive. Unix seconds."""
    if target.delivery.expires is None:
        return math.inf
    return max(event.accepted_at / 1e9, delivery.redriven_at) + target.delivery.expires


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
