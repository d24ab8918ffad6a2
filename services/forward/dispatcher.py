"""Opens, changes and closes lanes as the target documents say."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from services.forward.lane import Lane
from tas_mcp import targets
from tas_mcp.documents import Document, Faults
from tas_mcp.errors import Rejected
from tas_mcp.sealing import SecretKeys
from tas_mcp.targets import AnyTarget, Removed

SHOWN = 3


class Dispatcher:
    """Holds the lanes of all targets; ``lane`` makes one. Secrets are opened with ``keys``."""

    def __init__(self, lane: Callable[[AnyTarget | Removed], Lane], keys: SecretKeys) -> None:
        self._lane = lane
        self._keys = keys
        self.faults = Faults("lanes")
        self._lanes: dict[str, tuple[Lane, AsyncExitStack]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def trouble(self) -> str:
        """What is wrong with lanes, the first few named."""
        troubled = [f"{key}: {lane.trouble}" for key, (lane, _) in self._lanes.items() if lane.trouble]
        more = f" (and {len(troubled) - SHOWN} more)" if len(troubled) > SHOWN else ""
        return "; ".join(troubled[:SHOWN]) + more

    async def use(self, changes: Sequence[Document]) -> None:
        """Take account of changed documents. One that is not valid leaves its lane as it is."""
        for change in changes:
            try:
                await self._change(change)
                self.faults.clear(change.key)
            except Rejected as error:
                self.faults.add(change, error)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Dispatcher"]:
        """Leaving drains all lanes at once."""
        try:
            yield self
        finally:
            lanes, self._lanes = self._lanes, {}
            closing = [asyncio.create_task(stack.aclose()) for _, stack in lanes.values()]
            await asyncio.gather(*closing, *self._closing, return_exceptions=True)

    async def _change(self, change: Document) -> None:
        if change.value is None:
            self._close(change.key)
            return
        target = targets.decode(change.value, self._keys)
        if change.key in self._lanes:
            await self._lanes[change.key][0].use(target)
            return
        lane, stack = self._lane(target), AsyncExitStack()
        await stack.enter_async_context(lane.running())
        self._lanes[change.key] = lane, stack

    def _close(self, key: str) -> None:
        """Close a lane in the background: it may have a slow attempt to finish."""
        if key in self._lanes:
            task = asyncio.create_task(self._lanes.pop(key)[1].aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
