"""The lane of one target: deliveries are pulled, and attempted by as many workers as the gate lets be.

What follows from an attempt must be stored before its delivery is acked; while that cannot be, the lane holds it, marked in
progress, does not send it again, and by that soon stops pulling. When the gate closes (the target is paused, down, gone) the lane
gives back what waits, and stops pulling.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from services.forward.attempts import Attempts, Owed, expiry, read
from services.forward.deadlines import Deadlines
from services.forward.gate import Gate
from services.forward.guard import Guard
from services.forward.health import Health
from services.forward.statuses import Statuses
from services.forward.storage import Storage
from services.forward.targets import BatchSender, Sender, open_sender
from services.forward.traces import Traces
from tas_mcp import subjects, telemetry
from tas_mcp.broker import Connection, JetStream, Publisher, Pulled, Puller
from tas_mcp.outcomes import Outcomes
from tas_mcp.rate import Rate
from tas_mcp.targets import AnyTarget, Removed

log = telemetry.logger("lane")

HELD = 1000
"""How many deliveries a lane holds at most; with less concurrency, four times that: what can be sent well within ack_wait."""


class Lane:
    """Delivers to one target. ``use`` changes the target while it runs; ``replicas`` says how many of us deliver to it."""

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        outcomes: Outcomes,
        statuses: Statuses,
        guard: Guard,
        replicas: Callable[[], int],
        traces: Traces,
        target: AnyTarget | Removed,
    ) -> None:
        self._guard = guard
        self._target = target
        self._sender: Sender | None = None
        self._together: BatchSender | None = None
        self._senders = AsyncExitStack()
        self._retired: set[asyncio.Task[None]] = set()
        self._waiting: deque[Pulled] = deque()
        self._workers: set[asyncio.Task[Any]] = set()
        self._filler: asyncio.Task[Any] | None = None
        self._arrived = asyncio.Event()
        self._deadlines = Deadlines()
        self._gate = Gate(target, statuses, self._adjust)
        self._health = Health(self._gate)
        storage = Storage(JetStream(connection), publisher, target.id)
        self._attempts = Attempts(target.id, self._gate, self._deadlines, storage, outcomes, traces)
        self._rate: Rate | None = None
        self._batch_size = 1
        self._loop = asyncio.get_running_loop()  # to look for it is a system call: too much for each delivery
        self._replicas = replicas
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
        self._together = sender if isinstance(sender, BatchSender) else None  # not for each delivery: it costs more than sending
        if isinstance(target, Removed):
            self._rate, self._batch_size = None, 1
        else:
            limit = target.delivery.rate_limit
            self._rate = Rate(limit.requests_per_second, limit.burst or max(1.0, limit.requests_per_second)) if limit else None
            self._batch_size = target.delivery.batch_size
            self._deadlines.use(target.delivery.timeout)
        self._gate.use(target)
        self._health.use(target, sender)
        retiring = asyncio.create_task(_close_after(old, seconds))
        self._retired.add(retiring)
        retiring.add_done_callback(self._retired.discard)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Lane"]:
        """Pull and deliver while inside; leaving finishes what is held (the caller bounds the wait)."""
        await self.use(self._target)
        self._gate.open()
        try:
            async with self._deadlines.running(), self._puller.running():
                yield self
        finally:
            self._health.close()
            for task in (*self._workers, *self._retired):
                task.cancel()
            await asyncio.gather(*self._workers, *self._retired, return_exceptions=True)
            await self._senders.aclose()
            self._gate.close()
            self._attempts.forget()

    def _take(self, pulled: Pulled) -> None:
        gate = self._gate
        if not gate.width:
            pulled.nak()  # it was asked for before the gate closed
            return
        self._waiting.append(pulled)
        if self._filler is not None:
            self._arrived.set()
        elif len(self._workers) < gate.width:
            self._start_workers()

    def _adjust(self) -> None:
        """Follow the gate."""
        width = self._gate.width
        if width:
            self._puller.resize(min(HELD, 4 * width * self._batch_size))
            self._puller.resume()
            self._start_workers()
        else:
            self._puller.pause()
            while self._waiting:
                self._waiting.pop().nak()

    def _start_workers(self) -> None:
        """A worker lives as long as something waits, so that an idle lane has none and a busy one makes no task per delivery.
        Only one fills a batch at a time."""
        while self._filler is None and len(self._workers) < min(self._gate.width, len(self._workers) + len(self._waiting)):
            worker = self._loop.create_task(self._work())
            self._workers.add(worker)
            self._filler = worker if self._batch_size > 1 else None

    async def _work(self) -> None:
        try:
            while self._waiting and len(self._workers) <= self._gate.width:
                taken = [self._waiting.popleft()]
                try:
                    if self._batch_size > 1:
                        await self._fill(taken)
                    if (self._rate or self._gate.probing or not self._gate.width) and not await self._admitted():
                        for pulled in taken:
                            pulled.nak()
                    elif len(taken) == 1:
                        await self._handle(taken[0])
                    else:
                        await self._handle_together(taken)
                except Exception:
                    log.exception("delivery not handled; it will be handed out again", target=self._target.id, seq=taken[0].seq)
                    for pulled in taken:
                        pulled.nak()
        finally:  # at once: what comes before the task's callback would find a worker, and wait for one that has ended
            self._workers.discard(asyncio.current_task(self._loop))
            self._filled()

    async def _fill(self, taken: list[Pulled]) -> None:
        """Add to a batch until it is full, or for ``batch_timeout``."""
        size = self._batch_size
        timeout = 0.0 if isinstance(self._target, Removed) else self._target.delivery.batch_timeout
        self._filler = asyncio.current_task()
        try:
            async with asyncio.timeout(timeout):
                while len(taken) < size:
                    while self._waiting and len(taken) < size:
                        taken.append(self._waiting.popleft())
                    if len(taken) < size:
                        self._arrived.clear()
                        await self._arrived.wait()
        except TimeoutError:
            return
        finally:
            self._filled()

    def _filled(self) -> None:
        """The next may fill."""
        if self._filler is not None and self._filler is asyncio.current_task(self._loop):
            self._filler = None
            self._start_workers()

    async def _admitted(self) -> bool:
        """Wait for the target's rate; whether something may be sent then: not when the gate closed meanwhile, or another replica
        is the one to try."""
        if self._rate is not None and (seconds := self._rate.take(time.monotonic(), max(1, self._replicas()))):
            await asyncio.sleep(seconds)
        return self._gate.width > 0 and (not self._gate.probing or await self._gate.probe())

    async def _handle(self, pulled: Pulled, batch: list[Owed] | None = None) -> None:
        """Try a delivery, or add it to a batch; what is not to be tried any more is ended."""
        target, sender = self._target, self._sender
        try:
            owed = read(pulled)
        except ValueError as error:
            await self._attempts.keep_unreadable(pulled, str(error))
            return
        if sender is None or isinstance(target, Removed):
            await self._attempts.remove(owed, discard=isinstance(target, Removed) and target.queue == "discard")
        elif target.delivery.expires is not None and time.time() > expiry(target, owed):
            await self._attempts.give_up(owed, "expired", "it was not delivered in time (expires)")
        elif batch is not None and owed.delivery.body is None:
            batch.append(owed)
        else:
            await self._attempts.deliver(target, sender, owed)

    async def _handle_together(self, taken: list[Pulled]) -> None:
        target, together = self._target, self._together
        batch: list[Owed] = []
        for pulled in taken:
            await self._handle(pulled, batch if together is not None else None)
        if isinstance(target, Removed) or together is None:
            return
        if len(batch) == 1:
            await self._attempts.deliver(target, together, batch[0])
        elif batch:
            await self._attempts.deliver_together(target, together, batch)


async def _close_after(senders: AsyncExitStack, seconds: float) -> None:
    """Close connections once no attempt that began on them can still run."""
    await asyncio.sleep(seconds)
    await senders.aclose()
