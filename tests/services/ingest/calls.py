"""The gRPC server without a broker: on a port of its own, the test deciding when an event is stored; and a client of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple, cast

import grpc
from google.rpc import status_pb2

from services.ingest.grpc.server import serve
from services.ingest.intake import Intake
from services.ingest.main import limits
from services.ingest.rates import Shares
from services.ingest.schemas import Schemas
from services.ingest.settings import Settings
from services.ingest.tail import Stored, Tail
from tas_mcp.auth import Authentication
from tas_mcp.broker import Connection, Publisher
from tas_mcp.ops import Ops
from tas_mcp.submission import Limits
from tas_mcp.tls import Certificates
from tas_mcp.v1 import mcp_pb2, mcp_pb2_grpc
from tests.services.ingest.lanes import Store

GOOD = mcp_pb2.Event(event_type="good", source="test")


class Server(NamedTuple):
    """A running server, and a client's stub of it."""

    port: int
    store: Store
    ops: Ops
    channel: grpc.aio.Channel
    stub: Any


class Quiet:
    """What is needed of a ``Tail``, where no event ever comes."""

    @asynccontextmanager
    async def listening(self, *_: Any) -> AsyncIterator["Quiet"]:
        yield self

    async def take(self) -> list[Stored]:
        await asyncio.Event().wait()
        return []


@asynccontextmanager
async def called(
    *, store: Store | None = None, certificates: Certificates | None = None, **changes: Any
) -> AsyncIterator[Server]:
    """Serve; ``changes`` are settings. Leaving drains the server, then closes the channel."""
    found, ops = store or Store(), Ops()
    settings = Settings(**{"grpc_port": 0, "drain_seconds": 10.0, "auth": "none", **changes})
    publisher = cast(Publisher, found)
    schemas = Schemas(publisher)
    schemas.use([])
    sizes = Limits(settings.max_event_bytes, settings.max_depth, settings.max_metadata)
    rates, types, addresses = limits(settings, Shares(lambda: 1))
    intake, auth = Intake(publisher, sizes, schemas, rates, types), Authentication(Connection([], "test"), settings)
    async with AsyncExitStack() as clients:
        door = serve(settings, intake, auth, cast(Tail, Quiet()), ops, addresses=addresses, certificates=certificates)
        async with door as port:
            channel = await clients.enter_async_context(connected(port))
            yield Server(port, found, ops, channel, mcp_pb2_grpc.MCPServiceStub(channel))


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Any]:
    """A channel with a connection of its own: gRPC would share that of other channels to this port."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        yield channel


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """What an error carries besides its text: the details by the name of their type, encoded."""
    found = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(cast(bytes, found))
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return {each.type_url.rpartition(".")[2]: each.value for each in status.details}
