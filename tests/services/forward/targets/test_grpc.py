"""The gRPC sender against a real server."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from grpc_health.v1 import health_pb2
from msgspec import Raw, structs

from services.forward.addresses import networks
from services.forward.guard import Guard
from services.forward.targets import open_sender
from services.forward.targets.grpc import STATUS, Grpc, open_grpc
from services.forward.verdict import Failed, Refused
from tas_mcp import targets
from tas_mcp.v1 import mcp_pb2
from tests.certificates import Authority
from tests.contracts.target import event
from tests.services.forward.rig import OPEN
from tests.services.forward.targets.grpc_server import GrpcServer, accepted, grpc_serving

REFUSED = frozenset(
    """
    INVALID_ARGUMENT NOT_FOUND PERMISSION_DENIED UNAUTHENTICATED FAILED_PRECONDITION OUT_OF_RANGE UNIMPLEMENTED
    """.split()
)


def target(server: GrpcServer, **config: Any) -> targets.GrpcTarget:
    found, _ = targets.check({"id": "t", "type": "grpc", "endpoint": f"grpc://127.0.0.1:{server.port}", "config": config})
    assert isinstance(found, targets.GrpcTarget)
    return found


@pytest.fixture
async def server() -> AsyncIterator[GrpcServer]:
    async with grpc_serving() as found:
        yield found


@pytest.fixture
async def sender(server: GrpcServer) -> AsyncIterator[Grpc]:
    async with open_grpc(target(server), OPEN) as found:
        yield found


async def test_what_a_server_sees(server: GrpcServer) -> None:
    async with open_sender(target(server, headers={"authorization": "Bearer x"}, timeout="4s"), OPEN) as sender:
        assert await sender.send(event()) == 200
    assert server.seen == [
        mcp_pb2.Event(
            event_id="e1",
            event_type="user.created",
            source="auth",
            timestamp=1703001234,
            data='{"b": 1, "a":[1.0,"é"]}',
            metadata={"region": "eu"},
        )
    ]
    assert server.metadata["authorization"] == "Bearer x"
    assert server.metadata["user-agent"].startswith("tas-mcp/")
    assert server.deadlines[0] == pytest.approx(4, abs=1)  # gRPC sends it rounded up


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [("2023-12-19T15:53:54Z", 1703001234), ("2023-12-19t17:53:54.999+02:00", 1703001234), ("2016-12-31T23:59:60Z", 1703001235)],
)
async def test_a_time_in_words(server: GrpcServer, sender: Grpc, timestamp: str, seconds: int) -> None:
    await sender.send(structs.replace(event(), timestamp=timestamp))
    assert server.seen[0].timestamp == seconds


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_every_code(server: GrpcServer, sender: Grpc, code: grpc.StatusCode) -> None:
    server.code = code
    if code is grpc.StatusCode.ALREADY_EXISTS:
        assert await sender.send(event()) == 409
        return
    with pytest.raises((Refused, Failed)) as caught:
        await sender.send(event())
    error = caught.value
    assert isinstance(error, Refused if code.name in REFUSED else Failed)
    assert (error.status, error.detail) == (STATUS[code], f"{code.name}: so it is")


def retry_info(nanoseconds: int, kind: str = "google.rpc.RetryInfo") -> bytes:
    """A google.rpc.Status with one detail, written by hand: field 3 an Any, whose message has a Duration as field 1."""
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(nanoseconds)
    inner = delay.SerializeToString()
    detail = any_pb2.Any(type_url=f"type.googleapis.com/{kind}", value=bytes((10, len(inner))) + inner).SerializeToString()
    return b"\x08\x08\x12\x02no" + bytes((26, len(detail))) + detail


@pytest.mark.parametrize(
    ("details", "seconds"),
    [
        (retry_info(7_500_000_000), 7.5),
        (retry_info(-1_000_000_000), 0.0),
        (retry_info(7_500_000_000, "google.rpc.Other"), 0.0),
        (b"\xff\xff", 0.0),
        (b"", 0.0),
    ],
)
async def test_a_server_says_when(server: GrpcServer, sender: Grpc, details: bytes, seconds: float) -> None:
    server.code, server.trailers = grpc.StatusCode.RESOURCE_EXHAUSTED, (("grpc-status-details-bin", details),)
    with pytest.raises(Failed) as caught:
        await sender.send(event())
    assert caught.value.retry_after == seconds


async def test_what_is_too_large_for_the_server_never_fits(sender: Grpc) -> None:
    with pytest.raises(Refused, match="larger than max") as caught:
        await sender.send(event(data=b'"' + b"x" * 5_000_000 + b'"'))
    assert caught.value.status == 413


async def test_an_ok_that_says_no(server: GrpcServer, sender: Grpc) -> None:
    server.response = mcp_pb2.IngestEventResponse(success=False, message="the disk is full")
    with pytest.raises(Failed, match="the disk is full"):
        await sender.send(event())
    server.response = mcp_pb2.IngestEventResponse()
    assert await sender.send(event()) == 200


async def test_each_of_a_batch_has_its_own_outcome(server: GrpcServer, sender: Grpc) -> None:
    def answer(batch: mcp_pb2.EventBatch) -> mcp_pb2.IngestAck:
        ack = accepted(batch)
        ack.results[1].MergeFrom(mcp_pb2.EventResult(status="rejected", code="INVALID_EVENT", message="no"))
        ack.results[2].MergeFrom(mcp_pb2.EventResult(status="unavailable", code="UNAVAILABLE"))
        return ack

    server.batch = answer
    delivered, refused, failed = await sender.send_batch([event(1), event(2), event(3)])
    assert delivered == 200
    assert isinstance(refused, Refused)
    assert (refused.status, refused.detail) == (422, "rejected: INVALID_EVENT: no")
    assert isinstance(failed, Failed)
    assert failed.detail == "unavailable: UNAVAILABLE"


async def test_a_batch_that_is_not_answered_for_each_may_be_sent_again(server: GrpcServer, sender: Grpc) -> None:
    server.batch = lambda _: mcp_pb2.IngestAck()
    with pytest.raises(Failed, match="0 results for 2 events"):
        await sender.send_batch([event(1), event(2)])


async def test_a_batch_goes_in_as_many_calls_as_it_needs(server: GrpcServer, sender: Grpc) -> None:
    large = b'"' + b"x" * 1_400_000 + b'"'
    assert await sender.send_batch([event(number, large) for number in range(5)]) == [200] * 5
    assert server.batches == [2, 2, 1]
    assert [each.event_id for each in server.seen] == [f"e{number}" for number in range(5)]


async def test_what_was_delivered_before_a_call_failed_stays_delivered(server: GrpcServer, sender: Grpc) -> None:
    def answer(batch: mcp_pb2.EventBatch) -> mcp_pb2.IngestAck:
        server.code = grpc.StatusCode.INVALID_ARGUMENT
        return accepted(batch)

    server.batch = answer
    large = b'"' + b"x" * 2_000_000 + b'"'
    delivered, failed = await sender.send_batch([event(1, large), event(2, large)])
    assert delivered == 200
    assert isinstance(failed, Failed)


async def test_a_server_that_was_away_is_found_again(server: GrpcServer) -> None:
    async with grpc_serving() as first:
        port = first.port
        async with open_grpc(target(first), OPEN) as sender:
            await sender.send(event(1))
            await first.stop()
            with pytest.raises(Failed):
                await sender.send(event(2))
            async with grpc_serving(port=port) as second, asyncio.timeout(60):
                while not second.seen:
                    try:
                        await sender.send(event(3))
                    except Failed:
                        await asyncio.sleep(0.02)
                assert [each.event_id for each in second.seen] == ["e3"]


async def test_data_is_the_text_that_was_sent(server: GrpcServer, sender: Grpc) -> None:
    await sender.send(structs.replace(event(), data=Raw(b'"{\\"classic\\": 1.0}"')))
    assert server.seen[0].data == '{"classic": 1.0}'


async def test_both_sides_prove_who_they_are() -> None:
    authority, stranger = Authority(), Authority()
    server, client = authority.issue(address="192.0.2.1"), authority.issue("gateway")
    credentials = grpc.ssl_server_credentials(
        [(server.key.encode(), server.certificate.encode())], authority.certificate.encode(), require_client_auth=True
    )
    async with grpc_serving(credentials) as found:
        for tls, good in (
            ({"ca": authority.certificate, **client._asdict()}, True),
            ({"ca": authority.certificate}, False),
            ({"ca": authority.certificate, **stranger.issue()._asdict()}, False),
            ({"ca": stranger.certificate, **client._asdict()}, False),
            (client._asdict(), False),
        ):
            endpoint = f"grpcs://localhost:{found.port}"
            given, _ = targets.check({"id": "t", "type": "grpc", "endpoint": endpoint, "config": {"tls": tls}})
            async with open_sender(given, OPEN) as sender:
                if good:
                    assert await sender.send(event()) == 200
                    continue
                with pytest.raises(Failed) as caught:
                    await sender.send(event())
                assert caught.value.status == 503
    assert len(found.seen) == 1


async def test_the_certificate_may_have_to_bear_another_name_than_the_endpoint() -> None:
    authority = Authority()
    pair = authority.issue(address="192.0.2.1", host="edge.internal")
    async with grpc_serving(grpc.ssl_server_credentials([(pair.key.encode(), pair.certificate.encode())])) as found:
        for name, good in (("edge.internal", True), ("", False), ("other.internal", False)):
            tls = {"ca": authority.certificate, "server_name": name}
            endpoint = f"grpcs://localhost:{found.port}"
            given, _ = targets.check({"id": "t", "type": "grpc", "endpoint": endpoint, "config": {"tls": tls}})
            async with open_sender(given, OPEN) as sender:
                if good:
                    assert await sender.send(event()) == 200
                else:
                    with pytest.raises(Failed):
                        await sender.send(event())


async def test_all_addresses_of_the_name_are_used_and_new_ones_found() -> None:
    asked: list[str] = []
    found = ["127.0.0.1", "127.0.0.2"]

    async def lookup(host: str, port: int) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    async with grpc_serving() as one, grpc_serving(host="127.0.0.2", port=one.port) as two:
        given, _ = targets.check({"id": "t", "type": "grpc", "endpoint": f"dns:///many.test:{one.port}"})
        async with open_sender(given, Guard(networks("127.0.0.0/8"), lookup=lookup)) as sender, asyncio.timeout(60):
            while not (one.seen and two.seen):
                await sender.send(event())
            assert asked == ["many.test"]
            async with grpc_serving(host="127.0.0.3", port=one.port) as three:
                found[:] = ["127.0.0.3"]
                await one.stop()
                await two.stop()
                while not three.seen:
                    try:
                        await sender.send(event())
                    except Failed:
                        await asyncio.sleep(0.01)


async def test_the_guard_is_asked(server: GrpcServer) -> None:
    async with open_sender(target(server), Guard()) as sender:
        with pytest.raises(Refused, match="loopback"):
            await sender.send(event())
    assert not server.seen


async def test_a_health_check_asks_the_servers_health_service() -> None:
    async with grpc_serving(health=True) as server, open_grpc(target(server), OPEN) as sender:
        await server.health.set("", health_pb2.HealthCheckResponse.SERVING)
        await sender.check()
        await server.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        with pytest.raises(Failed, match="NOT_SERVING"):
            await sender.check()
        await server.stop()
        with pytest.raises(Failed):
            await sender.check()


async def test_a_server_without_a_health_service_is_well_as_long_as_it_answers(server: GrpcServer, sender: Grpc) -> None:
    await sender.check()
    await server.stop()
    with pytest.raises(Failed):
        await sender.check()
