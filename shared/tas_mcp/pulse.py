"""How well the event loop of this process turns, as a metric: what else runs here (memory, garbage collection, open files) is
told by prometheus-client itself."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tas_mcp import telemetry
from tas_mcp.background import background

SECONDS = 0.25

LAG = telemetry.histogram("mcp_event_loop_lag_seconds", "How much later than due the event loop did what was due, seconds")


@asynccontextmanager
async def measured() -> AsyncIterator[None]:
    """Measure while inside: four times a second."""
    async with background(_measure()):
        yield


async def _measure() -> None:
    while True:
        due = time.monotonic() + SECONDS
        await asyncio.sleep(SECONDS)
        LAG.observe(max(0.0, time.monotonic() - due))
