"""The server itself: its health, its description, its limits, its port, its end."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.ingest.grpc.server import FRAMING_BYTES
from tas_mcp import subjects
from tas_mcp.errors import Misconfigured
from tas_mcp.messages import decode_event
from tas_mcp.v1 import mcp_pb2, mcp_pb2_grpc
from tests.nats_server import NatsServer
from tests.ports import free_port
from tests.services.ingest.calls import called, connected
from tests.services.ingest.lanes import Store
from tests.shared.rig import linked, until
from tests.shared.test_service import environ

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_it_is_healthy_until_it_drains() -> None:
    async with AsyncExitStack() as clients:
        async with called() as server:
            stub = health_pb2_grpc.HealthStub(await clients.enter_async_context(connected(server.port)))
            for service in ("", "mcp.v1.MCPService"):
                assert (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status == SERVING
            watching = stub.Watch(health_pb2.HealthCheckRequest())
            assert (await watching.read()).status == SERVING
            told = asyncio.ensure_future(watching.read())
        assert (await told).status == NOT_SERVING


async def test_it_describes_itself() -> None:
    async with called() as server:
        stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="mcp.v1.MCPService"),
        ]
        services, file = [answer async for answer in stub.ServerReflectionInfo(iter(asked))]
        assert {each.name for each in services.list_services_response.service} == {
            "mcp.v1.MCPService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        assert mcp_pb2.DESCRIPTOR.serialized_pb in file.file_descriptor_response.file_descriptor_proto


async def test_it_says_how_its_dependencies_are() -> None:
    async with called() as server:
        trouble = "the broker is away"
        server.ops.serving = True
        server.ops.check("broker", lambda: trouble)
        answer = await server.stub.GetHealth(mcp_pb2.HealthCheckRequest())
        assert (answer.healthy, answer.status) == (False, "unhealthy")
        assert dict(answer.details) == {"broker": "down: the broker is away", "serving": "up"}
        trouble = ""
        answer = await server.stub.GetHealth(mcp_pb2.HealthCheckRequest())
        assert (answer.healthy, answer.status, answer.details["broker"]) == (True, "healthy", "up")
        assert 0 <= answer.uptime < 60_000


async def test_a_message_that_is_too_large_is_refused_unread() -> None:
    async with called(max_batch_bytes=1000, max_event_bytes=10_000_000) as server:
        for size, wanted in ((900, grpc.StatusCode.OK), (1000 + FRAMING_BYTES, grpc.StatusCode.RESOURCE_EXHAUSTED)):
            call = server.stub.IngestEvent(mcp_pb2.IngestEventRequest(event_type="a", source="s", data=f'"{"x" * size}"'))
            assert await call.code() is wanted
        assert len(server.store.payloads) == 1


async def test_more_calls_than_allowed_are_refused() -> None:
    store = Store()
    store.holding = True
    async with called(store=store, max_grpc_calls=1) as server:
        first = server.stub.IngestEvent(mcp_pb2.IngestEventRequest(event_type="a", source="s"))
        first_done = asyncio.ensure_future(first.code())
        await until(lambda: store.held)
        second = server.stub.IngestEvent(mcp_pb2.IngestEventRequest(event_type="a", source="s"))
        assert await second.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        store.release_all()
        assert await first_done is grpc.StatusCode.OK


async def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured, match=f"TAS_GRPC_PORT: cannot listen on 127.0.0.1:{port}: "):
            async with called(grpc_port=port):
                pass


async def test_two_gateways_do_not_share_a_port() -> None:
    """gRPC's own default would let them, each with half of the connections."""
    async with called() as server:
        with pytest.raises(Misconfigured):
            async with called(grpc_port=server.port):
                pass


async def test_what_a_stopped_process_acked_is_stored(nats: NatsServer, tmp_path: Path) -> None:
    """SIGTERM while two streams are busy."""
    port = free_port()
    values = environ(TAS_NATS_URL=nats.url, TAS_AUTH="none", TAS_GRPC_PORT=str(port))
    async with linked(nats.url) as broker:
        await broker.lay_out()
        with (tmp_path / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.ingest", env=values, stderr=log)
        try:
            async with connected(port) as channel:
                stub = mcp_pb2_grpc.MCPServiceStub(channel)
                await stub.GetHealth(mcp_pb2.HealthCheckRequest(), wait_for_ready=True)
                acked: list[set[str]] = [set(), set()]
                clients = [asyncio.ensure_future(_send(stub, f"c{number}", acked[number])) for number in range(2)]
                await until(lambda: all(len(each) > 200 for each in acked))
                process.send_signal(signal.SIGTERM)
                codes = await asyncio.wait_for(asyncio.gather(*clients), 60)
            assert set(codes) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
            assert await asyncio.wait_for(process.wait(), 60) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        stored = {decode_event(message.data).event_id for message in await broker.messages(subjects.EVENTS)}
        assert acked[0] | acked[1] <= stored
    assert b"Traceback" not in (tmp_path / "log").read_bytes()


async def _send(stub: Any, prefix: str, acked: set[str]) -> grpc.StatusCode:
    """Send batches of 10 until the server ends the stream; how it ended (INTERNAL is what grpc.aio's client says where it is just
    writing then)."""

    async def batches() -> AsyncIterator[mcp_pb2.EventBatch]:
        number = 0
        while True:
            number += 1
            yield mcp_pb2.EventBatch(
                sequence=number,
                events=[mcp_pb2.Event(event_id=f"{prefix}-{number}-{index}", event_type="a", source="s") for index in range(10)],
            )

    call = stub.IngestStream(batches())
    try:
        async for ack in call:
            acked.update(each.event_id for each in ack.results if each.status == "accepted")
    except grpc.aio.AioRpcError as error:
        return error.code()
    code: grpc.StatusCode = await call.code()
    return code
