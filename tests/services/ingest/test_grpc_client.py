"""Who may call, and how much: keys in the metadata, and rate limits."""

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from services.ingest.grpc.client import host
from tas_mcp.v1 import mcp_pb2
from tests.services.ingest.calls import GOOD, called, details

KEY = "k" * 40
REQUEST = mcp_pb2.IngestEventRequest(event_type="a", source="s")


@pytest.mark.parametrize(
    ("peer", "address"),
    [("ipv4:127.0.0.1:5", "127.0.0.1"), ("ipv6:%5B::1%5D:5", "::1"), ("ipv6:[fe80::1%25eth0]:5", "fe80::1%eth0"), ("unix:", "")],
)
def test_the_address_of_a_peer(peer: str, address: str) -> None:
    assert host(peer) == address


@pytest.mark.parametrize("metadata", [(("authorization", f"Bearer {KEY}"),), (("authorization", KEY),), (("x-api-key", KEY),)])
async def test_a_caller_with_a_key_comes_in(metadata: Any) -> None:
    async with called(auth="keys", admin_key=KEY) as server:
        assert (await server.stub.IngestEvent(REQUEST, metadata=metadata)).success
        acks = [each async for each in server.stub.IngestStream(iter([mcp_pb2.EventBatch(events=[GOOD])]), metadata=metadata)]
        assert acks[0].results[0].status == "accepted"


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),)])
async def test_a_caller_without_a_key_does_not(metadata: Any) -> None:
    async with called(auth="keys", admin_key=KEY) as server:
        calls = [
            server.stub.IngestEvent(REQUEST, metadata=metadata),
            server.stub.IngestBatch(mcp_pb2.EventBatch(events=[GOOD]), metadata=metadata),
            server.stub.IngestStream(metadata=metadata),  # nothing is sent: a client that is refused while it sends says INTERNAL
            server.stub.EventStream(metadata=metadata),
            server.stub.GetMetrics(mcp_pb2.MetricsRequest(), metadata=metadata),
        ]
        assert {await call.code() for call in calls} == {grpc.StatusCode.UNAUTHENTICATED}
        assert server.store.payloads == []
        assert await server.stub.GetHealth(mcp_pb2.HealthCheckRequest()).code() is grpc.StatusCode.OK


@pytest.mark.parametrize("limit", ["rate_requests", "rate_events", "rate_address_requests"])
async def test_too_many_calls_are_told_when_to_come_back(limit: str) -> None:
    changes: Any = {limit: 1}
    async with called(**changes) as server:
        assert (await server.stub.IngestEvent(REQUEST)).success
        calls = [server.stub.IngestEvent(REQUEST) for _ in range(20)]  # a slow machine gets some in
        ends = await asyncio.gather(*calls, return_exceptions=True)
        error = next(each for each in ends if isinstance(each, grpc.aio.AioRpcError))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        delay = error_details_pb2.RetryInfo.FromString(details(error)["RetryInfo"]).retry_delay
        assert 0 < delay.ToNanoseconds() <= 1_000_000_000


@pytest.mark.parametrize("limit", ["rate_requests", "rate_events", "rate_address_requests"])
async def test_a_stream_is_slowed_to_its_rate(limit: str) -> None:
    changes: Any = {limit: 10}
    async with called(**changes) as server:
        acks = [each async for each in server.stub.IngestStream(mcp_pb2.EventBatch(events=[GOOD]) for _ in range(15))]
        assert [each.results[0].status for each in acks] == ["accepted"] * 15
