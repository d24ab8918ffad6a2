"""Deadlines for many waits: one timer for all, as one for each costs a tenth of a delivery. Met to a twentieth, or 10 ms."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar, cast

from tas_mcp.background import background

T = TypeVar("T")

FINEST_SECONDS = 0.01
COARSEST_SECONDS = 0.25


class Deadlines:
    """Cancels what takes too long. ``running`` is entered before ``within`` is used."""

    def __init__(self) -> None:
        self._ends: dict[asyncio.Task[object], float] = {}
        self._overdue: set[asyncio.Task[object]] = set()
        self._busy = asyncio.Event()
        self._step = COARSEST_SECONDS

    async def within(self, seconds: float, work: Awaitable[T]) -> T:
        """What ``work`` gives, by the current task, which waits for one thing at a time.

        Raises:
            TimeoutError: it took longer, and was cancelled.
        """
        task = cast("asyncio.Task[object]", asyncio.current_task())
        self._ends[task] = time.perf_counter() + seconds
        self._step = min(COARSEST_SECONDS, max(FINEST_SECONDS, seconds / 20))
        self._busy.set()
        try:
            return await work
        except asyncio.CancelledError:
            if task not in self._overdue:
                raise
            task.uncancel()
            raise TimeoutError from None
        finally:
            del self._ends[task]
            self._overdue.discard(task)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Deadlines"]:
        async with background(self._tick()):
            yield self

    async def _tick(self) -> None:
        """A task with a deadline waits in ``within``, so that is where it is cancelled, and nowhere else."""
        while True:
            if not self._ends:
                self._busy.clear()
                await self._busy.wait()
            now = time.perf_counter()
            for task, end in self._ends.items():
                if end < now and task not in self._overdue:
                    self._overdue.add(task)
                    task.cancel()
            await asyncio.sleep(self._step)
