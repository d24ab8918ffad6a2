"""Makes a round every few seconds, so that the broker stays as it should be whatever happened meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from services.control.topology import Topology
from tas_mcp import telemetry
from tas_mcp.background import background
from tas_mcp.broker import BrokerError
from tas_mcp.errors import Unavailable

log = telemetry.logger("janitor")

STEP_SECONDS = 60.0

Step = Callable[[], Awaitable[None]]


class Janitor:
    """Runs each of ``steps`` in each round. What one of them cannot do is logged, and tried again in the next round."""

    def __init__(self, topology: Topology, steps: Mapping[str, Step], seconds: float) -> None:
        self._topology = topology
        self._steps = steps
        self._seconds = seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Janitor"]:
        async with background(self._keep()):
            yield self

    async def round(self) -> None:
        """One round; each step has a deadline."""
        for name, step in self._steps.items():
            try:
                async with asyncio.timeout(STEP_SECONDS):
                    await step()
            except (Unavailable, BrokerError) as error:
                log.warning("step not done", step=name, detail=error.detail)
            except Exception:
                log.exception("step failed", step=name)

    async def _keep(self) -> None:
        while True:
            if not self._topology.trouble:
                await self.round()
            await asyncio.sleep(self._seconds)
