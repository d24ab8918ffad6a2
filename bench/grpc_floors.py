"""The floor of gRPC: a bare grpc.aio server that decodes the same messages and answers; it stores nothing.
``python -m bench.grpc_floors PORT``"""

import asyncio
import sys
from typing import Any

import grpc
import uvloop

from tas_mcp.v1 import mcp_pb2, mcp_pb2_grpc


class Bare(mcp_pb2_grpc.MCPServiceServicer):
    """Answers at once."""

    async def IngestEvent(self, request: mcp_pb2.IngestEventRequest, _: Any) -> mcp_pb2.IngestEventResponse:  # noqa: N802
        return mcp_pb2.IngestEventResponse(event_id=request.event_id, success=True, status="accepted")

    async def IngestStream(self, _: Any, context: Any) -> None:  # noqa: N802
        while (batch := await context.read()) is not grpc.aio.EOF:
            results = [mcp_pb2.EventResult(event_id=event.event_id, status="accepted") for event in batch.events]
            await context.write(mcp_pb2.IngestAck(sequence=batch.sequence, results=results))


async def serve(port: int) -> None:
    server = grpc.aio.server()
    mcp_pb2_grpc.add_MCPServiceServicer_to_server(Bare(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
