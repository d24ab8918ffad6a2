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
        self._loop = asyncio.get_running_loop()

    @property
    def under_way(self) -> int:
        """How many wait."""
        return len(self._ends)

    def use(self, seconds: float) -> None:
        """How long is given from now on, which says how closely to look."""
        self._step = min(COARSEST_SECONDS, max(FINEST_SECONDS, seconds / 20))

    async def within(self, seconds: float, since: float, work: Awaitable[T]) -> T:
        """What ``work`` gives, by the current task, which waits for one thing at a time, and began at ``since`` (monotonic).

        Raises:
            TimeoutError: it took longer, and was cancelled.
        """
        task = cast("asyncio.Task[object]", asyncio.current_task(self._loop))  # to look for the loop is a system call
        if not self._ends:
            self._busy.set()
        self._ends[task] = since + seconds
        try:
            return await work
        except asyncio.CancelledError:
            if task not in self._overdue:
                raise
            task.uncancel()
            raise TimeoutError from None
        finally:
            del self._ends[task]
            if self._overdue:
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
            now = time.monotonic()
            for task, end in self._ends.items():
                if end < now and task not in self._overdue:
                    self._overdue.add(task)
                    task.cancel()
            await asyncio.sleep(self._step)
