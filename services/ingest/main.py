"""The ingest service: its parts, put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.ingest import http
from services.ingest.express import Express
from services.ingest.intake import Intake
from services.ingest.settings import Settings
from services.ingest.submission import Limits
from tas_mcp.broker import Publisher
from tas_mcp.service import Runtime, run


@asynccontextmanager
async def ingest(settings: Settings, runtime: Runtime) -> AsyncIterator[None]:
    async with Publisher(runtime.connection, window=settings.publish_window).running() as publisher:
        intake = Intake(publisher, Limits(settings.max_event_bytes, settings.max_depth, settings.max_metadata))
        runtime.front = lane = Express(settings, intake) if settings.express else None
        runtime.mount(http.routes(settings, intake, lane), settings.max_batch_bytes + 1)
        yield


def main() -> None:
    run("ingest", Settings, ingest)
