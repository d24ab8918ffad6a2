"""The ingest service: its parts, put together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.ingest import http
from services.ingest.express import Express
from services.ingest.grpc import server as grpc
from services.ingest.intake import Intake
from services.ingest.names import Names
from services.ingest.rates import Addresses, Allowance, Rates, Shares, Types
from services.ingest.schemas import Schemas
from services.ingest.settings import Settings
from services.ingest.sse import Streams
from services.ingest.tail import Tail
from services.ingest.waits import Waits
from services.ingest.websocket import Sockets
from tas_mcp import subjects
from tas_mcp.broker import Publisher
from tas_mcp.documents import Document, Follower
from tas_mcp.presence import Announcer, Presences
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

    presences = Presences(connection, runtime.name)
    shares = Shares(lambda: len(presences.live()))
    rates, types, addresses = limits(settings, shares)
    patterns = settings.event_type_pattern, settings.source_pattern
    names = Names(*patterns) if any(patterns) else None
    follower = Follower(connection, subjects.SCHEMAS_BUCKET, changed)
    runtime.ops.check("schemas", lambda: follower.trouble, schemas.faults.note)
    publisher = Publisher(connection, window=settings.publish_window)
    tail = Tail(connection, most=settings.max_listeners, events=settings.listener_events, size=settings.listener_bytes)
    waits = Waits(connection, settings.max_waits)
    auth = runtime.auth
    runtime.ops.check("keys", lambda: auth.trouble, lambda: auth.note)
    async with (
        publisher.running(),
        follower.running(),
        presences.running(),
        announcer.running(),
        auth.running(),
        tail.running(),
        waits.running(),
    ):
        await follower.first(LOAD_SECONDS)
        sizes = Limits(settings.max_event_bytes, settings.max_depth, settings.max_metadata)
        intake = Intake(publisher, sizes, schemas, rates, types, names, runtime.tracer)
        runtime.front = lane = Express(settings, intake, auth, addresses) if settings.express else None
        routes = http.routes(settings, intake, auth, lane, addresses, waits)
        runtime.mount(routes, settings.max_batch_bytes + 1, [waits.drain])
        for protocol in (Sockets(settings, intake, tail, auth, addresses), Streams(settings, tail, auth, addresses)):
            runtime.mount(protocol.routes(), 0, [protocol.drain])
        shared, certificates = runtime.shared, runtime.certificates
        door = grpc.serve(
            settings, intake, auth, tail, runtime.ops, addresses=addresses, shared=shared, certificates=certificates
        )
        async with door as runtime.ports["grpc"]:
            yield


def limits(settings: Settings, shares: Shares) -> tuple[Rates | None, Types | None, Addresses | None]:
    """The rate limits that are set."""
    burst = settings.rate_burst_seconds
    own = Allowance(settings.rate_requests, settings.rate_events, settings.rate_bytes)
    total = Allowance(settings.rate_total_requests, settings.rate_total_events, settings.rate_total_bytes)
    per_address, per_hour = settings.rate_address_requests, settings.rate_new_types
    return (
        Rates(own, total, burst, shares) if own or total else None,
        Types(per_hour, shares) if per_hour else None,
        Addresses(per_address, burst, shares) if per_address else None,
    )


def main() -> None:
    run("ingest", Settings, ingest)
