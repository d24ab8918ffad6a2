"""Deliveries that go many in one request, on a real broker and to a real gRPC server."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tas_mcp.v1 import mcp_pb2
from tests.services.forward.rig import Rig, forwarding
from tests.services.forward.targets.grpc_server import GrpcServer, accepted, grpc_serving
from tests.shared.rig import until


@pytest.fixture
async def server() -> AsyncIterator[GrpcServer]:
    async with grpc_serving() as found:
        yield found


async def save(rig: Rig, server: GrpcServer, **config: Any) -> None:
    await rig.save("a", type="grpc", endpoint=f"grpc://127.0.0.1:{server.port}", config={"concurrency": 2, **config})


async def results(rig: Rig) -> dict[int, str]:
    return {seq: result for seq, _, result, _ in await rig.outcomes("a")}


async def _recorded(rig: Rig, count: int) -> bool:
    return len(await results(rig)) == count


async def test_what_waits_goes_together_up_to_the_size(rig: Rig, server: GrpcServer) -> None:
    await save(rig, server, batch_size=10, batch_timeout="1s")
    await rig.owe("a", *range(1, 46))
    async with forwarding(rig):
        await until(lambda: rig.settled("a"))
    assert sorted(each.event_id for each in server.seen) == sorted(f"e{seq}" for seq in range(1, 46))
    assert max(server.batches) == 10
    assert sum(server.batches) >= 44, "but for one that was left over"
    assert set((await results(rig)).values()) == {"delivered"}


async def test_one_alone_does_not_wait_for_long(rig: Rig, server: GrpcServer) -> None:
    await save(rig, server, batch_size=1000, batch_timeout="20ms")
    await rig.owe("a", 1)
    async with forwarding(rig):
        await until(lambda: rig.settled("a"))
    assert server.batches == [], "a request of its own"
    assert len(server.seen) == 1


async def test_each_of_a_batch_gets_its_own_verdict(rig: Rig, server: GrpcServer) -> None:
    def answer(batch: mcp_pb2.EventBatch) -> mcp_pb2.IngestAck:
        found = accepted(batch)
        for result in found.results:
            if result.event_id == "e3":
                result.status = "rejected"
            elif result.event_id == "e4":
                result.status = "unavailable"
        return found

    server.batch = answer
    await save(rig, server, batch_size=10, batch_timeout="10s", retry={"schedule": ["1h"]})
    await rig.owe("a", *range(1, 11))
    async with forwarding(rig):
        await until(lambda: _recorded(rig, 10))
        assert await results(rig) == dict.fromkeys(range(1, 11), "delivered") | {3: "dead", 4: "retrying"}
        assert [letter.event_id for letter in await rig.dead("a")] == ["e3"]
        assert [delivery.event_seq for _, delivery in await rig.parked("a")] == [4]


async def test_a_batch_that_is_refused_is_tried_one_by_one(rig: Rig, server: GrpcServer) -> None:
    """As a server does that knows no batches."""
    server.batch_code = grpc.StatusCode.UNIMPLEMENTED
    await save(rig, server, batch_size=5, batch_timeout="10s")
    await rig.owe("a", *range(1, 6))
    async with forwarding(rig):
        await until(lambda: rig.settled("a"))
    assert (server.batches, len(server.seen)) == ([5], 5)


async def test_a_lane_of_batches_is_idle_and_wakes_again(rig: Rig, server: GrpcServer) -> None:
    await save(rig, server, batch_size=4, batch_timeout="20ms")
    async with forwarding(rig):
        for seq in range(1, 40, 3):
            await rig.owe("a", seq, seq + 1, seq + 2)
            await until(lambda seq=seq: len(server.seen) == seq + 2)  # type: ignore[misc]
        await until(lambda: rig.settled("a"))


async def test_a_batch_that_fails_counts_once_for_the_breaker(rig: Rig, server: GrpcServer) -> None:
    def fail(batch: mcp_pb2.EventBatch) -> mcp_pb2.IngestAck:
        found = accepted(batch)
        for result in found.results:
            result.status = "unavailable"
        return found

    server.batch = fail
    breaker = {"failures": 3, "cooldown": "1h", "max_cooldown": "1h"}
    await save(rig, server, batch_size=10, batch_timeout="10s", concurrency=1, retry={"schedule": ["1h"]}, breaker=breaker)
    await rig.owe("a", *range(1, 61))
    async with forwarding(rig):
        await until(lambda: len(server.batches) == 3)

        async def recorded() -> bool:
            return len(await rig.outcomes("a")) == 30

        await until(recorded)
    assert server.batches == [10, 10, 10]
