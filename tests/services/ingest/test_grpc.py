"""The calls of mcp.v1.MCPService that store events, from a real client through a real broker."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from tas_mcp.v1 import mcp_pb2, mcp_pb2_grpc
from tests.nats_server import NatsServer
from tests.otlp import collecting
from tests.services.ingest.calls import GOOD, connected, details
from tests.services.ingest.rig import Rig, serving

EVENT: dict[str, Any] = {
    "event_id": "e1",
    "event_type": "a.b",
    "source": "s",
    "timestamp": 7,
    "data": '{"n": 1.0}',
    "metadata": {"k": "v"},
}


@pytest.fixture
async def rig(nats: NatsServer) -> AsyncIterator[Rig]:
    async with serving(nats.url, max_batch_events=5, max_event_bytes=1000) as found:
        yield found


@pytest.fixture
async def stub(rig: Rig) -> AsyncIterator[Any]:
    async with connected(rig.grpc_port) as channel:
        yield mcp_pb2_grpc.MCPServiceStub(channel)


def statuses(ack: mcp_pb2.IngestAck) -> list[str]:
    return [each.status for each in ack.results]


async def test_an_event_is_stored_as_it_was_sent(rig: Rig, stub: Any) -> None:
    answer = await stub.IngestEvent(mcp_pb2.IngestEventRequest(**EVENT))
    assert (answer.event_id, answer.success, answer.status, answer.message) == ("e1", True, "accepted", "stored")
    [event] = await rig.stored()
    assert (event.event_id, event.event_type, event.source, event.timestamp) == ("e1", "a.b", "s", 7)
    assert (bytes(event.data), event.metadata) == (b'{"n": 1.0}', {"k": "v"})
    assert answer.timestamp == pytest.approx(event.accepted_at / 1e9, abs=10)


async def test_an_event_may_do_without_the_rest(rig: Rig, stub: Any) -> None:
    answer = await stub.IngestEvent(mcp_pb2.IngestEventRequest(event_type="a", source="s"))
    [event] = await rig.stored()
    assert (event.event_id, bytes(event.data), event.metadata) == (answer.event_id, b"null", {})
    assert event.timestamp == event.accepted_at // 1_000_000_000


async def test_a_second_time_it_is_a_duplicate(rig: Rig, stub: Any) -> None:
    answers = [await stub.IngestEvent(mcp_pb2.IngestEventRequest(**EVENT)) for _ in range(2)]
    assert [(each.success, each.status, each.message) for each in answers] == [
        (True, "accepted", "stored"),
        (True, "accepted", "stored before"),
    ]
    assert len(await rig.stored()) == 1


async def test_what_an_old_client_sends(rig: Rig) -> None:
    """Bytes by the field numbers and types that clients rely on, and the answer read by them."""
    request = b"\x0a\x02e1" + b"\x12\x03a.b" + b"\x1a\x01s" + b"\x20\x07" + b'\x2a\x08{"n": 1}' + b"\x32\x06\x0a\x01k\x12\x01v"
    async with connected(rig.grpc_port) as channel:
        answer: Any = await channel.unary_unary("/mcp.v1.MCPService/IngestEvent")(request)
        [ack] = [
            each
            async for each in channel.stream_stream("/mcp.v1.MCPService/IngestStream")(
                iter([b"\x08\x05\x12\x08" + request[4:12]])
            )
        ]
    assert answer.startswith(b"\x0a\x02e1" + b"\x10\x01" + b"\x1a\x06stored" + b"\x20")
    assert answer.endswith(b"\x2a\x08accepted")
    assert ack.startswith(b"\x08\x05\x12")
    assert ack.endswith(b"\x12\x08accepted")
    first, second = await rig.stored()
    assert (first.event_id, first.event_type, first.source, first.timestamp) == ("e1", "a.b", "s", 7)
    assert (bytes(first.data), first.metadata) == (b'{"n": 1}', {"k": "v"})
    assert (second.event_type, second.source) == ("a.b", "s")


async def test_the_answer_names_the_trace(nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with collecting() as collector:
        for name, value in collector.environ.items():
            monkeypatch.setenv(name, value)
        async with serving(nats.url) as rig, connected(rig.grpc_port) as channel:
            metadata = (("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01"),)
            request = mcp_pb2.IngestEventRequest(**EVENT)
            call = mcp_pb2_grpc.MCPServiceStub(channel).IngestEvent(request, metadata=metadata)
            await call
            told = dict(await call.trailing_metadata())
        [span] = collector.named("mcp.v1.MCPService/IngestEvent")
    assert (span.trace_id, span.parent_id) == ("ab" * 16, "cd" * 8)
    assert told["traceparent"] == span.traceparent


async def test_an_event_that_is_wrong_is_refused_naming_the_field(rig: Rig, stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.IngestEvent(mcp_pb2.IngestEventRequest(event_type="a", source="s", metadata={"a/b": "\n"}))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "/metadata/a~1b: must not contain control characters"
    found = details(caught.value)
    assert error_details_pb2.ErrorInfo.FromString(found["ErrorInfo"]).reason == "INVALID_EVENT"
    [violation] = error_details_pb2.BadRequest.FromString(found["BadRequest"]).field_violations
    assert (violation.field, violation.description) == ("metadata.a/b", "must not contain control characters")
    assert await rig.stored() == []


async def test_what_is_no_message_is_refused(rig: Rig) -> None:
    async with connected(rig.grpc_port) as channel:
        for method in ("IngestEvent", "IngestBatch"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/mcp.v1.MCPService/{method}")(b"\x0a\xff")
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_without_a_broker_nothing_is_accepted(rig: Rig, stub: Any, nats: NatsServer) -> None:
    nats.stop()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.IngestEvent(mcp_pb2.IngestEventRequest(**EVENT))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    retry = error_details_pb2.RetryInfo.FromString(details(caught.value)["RetryInfo"])
    assert retry.retry_delay.seconds == 1
    ack = await stub.IngestBatch(mcp_pb2.EventBatch(events=[GOOD]))
    assert [(each.status, each.code) for each in ack.results] == [("unavailable", "UNAVAILABLE")]


async def test_each_event_of_a_batch_has_its_own_answer(rig: Rig, stub: Any) -> None:
    large = mcp_pb2.Event(event_type="a", source="s", data=f'"{"x" * 1000}"')
    ack = await stub.IngestBatch(mcp_pb2.EventBatch(sequence=-9, events=[mcp_pb2.Event(**EVENT), mcp_pb2.Event(), large, GOOD]))
    assert ack.sequence == -9
    assert statuses(ack) == ["accepted", "rejected", "rejected", "accepted"]
    assert [each.code for each in ack.results] == ["", "INVALID_EVENT", "EVENT_TOO_LARGE", ""]
    assert ack.results[0].event_id == "e1"
    assert ack.results[1].message == "/event_type: must not be empty"
    assert {event.event_id for event in await rig.stored()} == {"e1", ack.results[3].event_id}


@pytest.mark.parametrize(("count", "reason"), [(0, "INVALID_EVENT"), (6, "BATCH_TOO_LARGE")])
async def test_a_batch_of_no_or_too_many_events_is_refused(rig: Rig, stub: Any, count: int, reason: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.IngestBatch(mcp_pb2.EventBatch(events=[GOOD] * count))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_details_pb2.ErrorInfo.FromString(details(caught.value)["ErrorInfo"]).reason == reason
    assert await rig.stored() == []


async def test_batches_of_a_stream_are_acked_by_their_sequence(rig: Rig, stub: Any) -> None:
    batches = [mcp_pb2.EventBatch(sequence=number, events=[GOOD] * (number % 4)) for number in range(20)]
    acks = {ack.sequence: ack async for ack in stub.IngestStream(iter(batches))}
    assert {number: len(ack.results) for number, ack in acks.items()} == {number: number % 4 for number in range(20)}
    assert {status for ack in acks.values() for status in statuses(ack)} == {"accepted"}
    assert len(await rig.stored()) == sum(number % 4 for number in range(20))


async def test_ok_after_a_half_close_means_that_all_is_stored(rig: Rig, stub: Any) -> None:
    call = stub.EventStream(iter([GOOD] * 50))
    async for _ in call:  # it may read, so it gets what it sent
        pass
    assert await call.code() is grpc.StatusCode.OK
    assert len(await rig.stored()) == 50


async def test_events_are_counted_by_protocol(rig: Rig, stub: Any) -> None:
    before = await stub.GetMetrics(mcp_pb2.MetricsRequest())
    await stub.IngestBatch(mcp_pb2.EventBatch(events=[GOOD, mcp_pb2.Event()]))
    await rig.post(b'{"event_type":"a","source":"s"}')
    after = await stub.GetMetrics(mcp_pb2.MetricsRequest())
    assert after.total_events - before.total_events == 2
    assert after.stream_events - before.stream_events == 1
    assert after.error_events - before.error_events == 1
    assert after.uptime >= before.uptime
