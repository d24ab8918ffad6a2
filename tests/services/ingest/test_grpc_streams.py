"""Streams whose events the test stores when it likes: how much is taken, and how a stream ends."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from services.ingest.grpc.streams import WINDOW
from tas_mcp.v1 import mcp_pb2, mcp_pb2_grpc
from tests.services.ingest.calls import GOOD, Server, called, connected, details
from tests.services.ingest.lanes import Store, turns
from tests.shared.rig import until


def holding() -> Store:
    store = Store()
    store.holding = True
    return store


def batch(sequence: int, count: int = 1) -> mcp_pb2.EventBatch:
    return mcp_pb2.EventBatch(sequence=sequence, events=[GOOD] * count)


async def test_no_ack_before_the_event_is_stored() -> None:
    async with called(store=holding()) as server:
        call = server.stub.IngestStream()
        for number in (1, 2):
            await call.write(batch(number))
        await until(lambda: len(server.store.held) == 2)
        reading = asyncio.ensure_future(call.read())
        await turns()
        assert not reading.done()
        server.store.release(1)
        assert (await reading).sequence == 2
        server.store.release()
        assert (await call.read()).sequence == 1


async def test_a_client_that_sends_faster_than_is_stored_is_slowed() -> None:
    """No more than a window is taken; as the first are stored, the next are."""
    total, size = 60, 100
    async with called(store=holding()) as server:
        call = server.stub.IngestStream(batch(number, size) for number in range(total))
        await until(lambda: len(server.store.held) >= WINDOW - size)
        await turns(500)
        assert len(server.store.payloads) <= WINDOW + size
        acked = set()
        async for ack in _acks(server, call):
            acked.add(ack.sequence)
            assert len(server.store.held) <= WINDOW + size
        assert acked == set(range(total))
        assert len(server.store.payloads) == total * size


async def _acks(server: Server, call: Any) -> Any:
    """The acks of a stream whose events are stored a batch at a time."""
    while True:
        reading = asyncio.ensure_future(call.read())
        while not reading.done():
            for _ in range(min(100, len(server.store.held))):
                server.store.release()
            await asyncio.sleep(0)
        if reading.result() is grpc.aio.EOF:
            return
        yield reading.result()


async def test_a_client_that_does_not_read_its_acks_is_slowed() -> None:
    """The acks of large results fill what gRPC buffers, and then the window."""
    events = [mcp_pb2.Event(event_id="e" * 128, event_type="a", source="s")] * 500
    async with called() as server:
        call = server.stub.IngestStream()
        writing = asyncio.ensure_future(_write_all(call, [mcp_pb2.EventBatch(events=events)] * 2000))
        await until(lambda: server.store.payloads)
        seen = -1
        while seen != len(server.store.payloads):  # until it stands still
            seen = len(server.store.payloads)
            await asyncio.sleep(0.5)
        assert 0 < seen < 500_000
        assert not writing.done()
        writing.cancel()
        call.cancel()


async def _write_all(call: Any, batches: list[mcp_pb2.EventBatch]) -> None:
    for each in batches:
        await call.write(each)


async def test_a_batch_that_is_too_large_ends_the_stream_after_the_acks_before_it() -> None:
    async with called(max_batch_events=2) as server:
        call = server.stub.IngestStream(iter([batch(1), batch(2, 3)]))
        assert (await call.read()).sequence == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "the batch has more than 2 events"
        assert len(server.store.payloads) == 1


async def test_a_refused_event_ends_an_event_stream() -> None:
    async with called() as server:
        call = server.stub.EventStream(iter([GOOD, mcp_pb2.Event(source="s"), GOOD]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "event 2 of the stream: /event_type: must not be empty"


async def test_a_drain_ends_streams_after_what_they_sent_is_acked() -> None:
    store = holding()
    async with AsyncExitStack() as clients:
        async with called(store=store) as server:
            stub: Any = mcp_pb2_grpc.MCPServiceStub(await clients.enter_async_context(connected(server.port)))
            call, other = stub.IngestStream(), stub.EventStream()
            await call.write(batch(1))
            await other.write(GOOD)
            await until(lambda: len(store.held) == 2)
            ended = asyncio.ensure_future(_end_of(call)), asyncio.ensure_future(_end_of(other))
            asyncio.get_running_loop().call_later(0.1, store.release_all)
        (acks, first), (_, second) = await asyncio.gather(*ended)  # the server is gone
    assert acks == [1]
    for error in (first, second):
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "open the stream again" in error.details()
        assert error_details_pb2.RetryInfo.FromString(details(error)["RetryInfo"]).retry_delay.seconds == 1


async def _end_of(call: Any) -> tuple[list[int], Any]:
    """The sequences that were acked, and the error that came then."""
    acked = []
    try:
        while (ack := await call.read()) is not grpc.aio.EOF:
            acked.append(ack.sequence)
    except grpc.aio.AioRpcError as error:
        return acked, error
    raise AssertionError("it ended without an error")


async def test_a_client_that_leaves_leaves_nothing_open() -> None:
    async with called(store=holding()) as server:
        call = server.stub.IngestStream()
        await call.write(batch(1))
        await until(lambda: server.store.held)
        assert (await server.stub.GetMetrics(mcp_pb2.MetricsRequest())).active_streams == 1
        call.cancel()

        async def none() -> bool:
            return not (await server.stub.GetMetrics(mcp_pb2.MetricsRequest())).active_streams

        await until(none)
        server.store.release_all()  # nobody waits for it any more
