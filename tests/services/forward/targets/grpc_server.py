"""A real gRPC server of the gateway's proto, whose behaviour a test chooses."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from tas_mcp.v1 import mcp_pb2, mcp_pb2_grpc


class GrpcServer(mcp_pb2_grpc.MCPServiceServicer):
    """Takes events. ``code`` refuses every call, ``batch_code`` batches; ``batch`` answers them another way; the events of
    ``unwanted`` are not taken alone."""

    def __init__(self) -> None:
        self.port = 0
        self.health = health.aio.HealthServicer()
        self.server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        self.seen: list[mcp_pb2.Event] = []
        self.batches: list[int] = []
        self.metadata: dict[str, str] = {}
        self.deadlines: list[float] = []
        self.code: grpc.StatusCode | None = None
        self.batch_code: grpc.StatusCode | None = None
        self.unwanted: frozenset[str] = frozenset()
        self.details = "so it is"
        self.trailers: tuple[tuple[str, str | bytes], ...] = ()
        self.response = mcp_pb2.IngestEventResponse(success=True, status="accepted")
        self.batch: Callable[[mcp_pb2.EventBatch], mcp_pb2.IngestAck] | None = None

    async def IngestEvent(self, request: Any, context: Any) -> mcp_pb2.IngestEventResponse:  # noqa: N802
        await self._look(context)
        if request.event_id in self.unwanted:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, self.details)
        self.seen.append(mcp_pb2.Event.FromString(request.SerializeToString()))
        return self.response

    async def IngestBatch(self, request: mcp_pb2.EventBatch, context: Any) -> mcp_pb2.IngestAck:  # noqa: N802
        await self._look(context)
        self.batches.append(len(request.events))
        if self.batch_code is not None:
            await context.abort(self.batch_code, self.details)
        if self.batch:
            return self.batch(request)
        self.seen += request.events
        return accepted(request)

    async def stop(self) -> None:
        """End at once."""
        await self.server.stop(None)

    async def _look(self, context: Any) -> None:
        self.metadata = dict(context.invocation_metadata() or ())
        self.deadlines.append(context.time_remaining())
        if self.code is not None:
            await context.abort(self.code, self.details, self.trailers)


def accepted(batch: mcp_pb2.EventBatch) -> mcp_pb2.IngestAck:
    return mcp_pb2.IngestAck(results=[mcp_pb2.EventResult(event_id=each.event_id, status="accepted") for each in batch.events])


@asynccontextmanager
async def grpc_serving(
    credentials: grpc.ServerCredentials | None = None, *, host: str = "127.0.0.1", port: int = 0, health: bool = False
) -> AsyncIterator[GrpcServer]:
    """Serve on a free port, or on this one; also the ``health`` service."""
    found = GrpcServer()
    if health:
        health_pb2_grpc.add_HealthServicer_to_server(found.health, found.server)
    mcp_pb2_grpc.add_MCPServiceServicer_to_server(found, found.server)
    address = f"{host}:{port}"
    add = found.server.add_insecure_port
    found.port = found.server.add_secure_port(address, credentials) if credentials else add(address)
    await found.server.start()
    try:
        yield found
    finally:
        await found.stop()
