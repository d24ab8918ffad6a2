"""The ingest service: its parts, put together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.ingest import http
from services.ingest.express import Express
from services.ingest.intake import Intake
from services.ingest.schemas import Schemas
from services.ingest.settings import Settings
from tas_mcp import subjects
from tas_mcp.broker import Publisher
from tas_mcp.documents import Document, Follower
from tas_mcp.presence import Announcer
from tas_mcp.service import Runtime, run
from tas_mcp.submission import Limits

LOAD_SECONDS = 2.0
"""How long the start waits for the schemas, without which every event is refused with 503."""


@asynccontextmanager
async def ingest(settings: Settings, runtime: Runtime) -> AsyncIterator[None]:
    connection = runtime.connection
    schemas = Schemas(runtime.publisher)
    announcer = Announcer(connection, runtime.name, lambda: schemas.revision)

    async def changed(documents: Sequence[Document]) -> None:
        schemas.use(documents)
        announcer.announce()

    follower = Follower(connection, subjects.SCHEMAS_BUCKET, changed)
    runtime.ops.check("schemas", lambda: follower.trouble, schemas.faults.note)
    publisher = Publisher(connection, window=settings.publish_window)
    async with publisher.running(), follower.running(), announcer.running():
        await follower.first(LOAD_SECONDS)
        intake = Intake(publisher, Limits(settings.max_event_bytes, settings.max_depth, settings.max_metadata), schemas)
        runtime.front = lane = Express(settings, intake) if settings.express else None
        runtime.mount(http.routes(settings, intake, lane), settings.max_batch_bytes + 1)
        yield


def main() -> None:
    run("ingest", Settings, ingest)
