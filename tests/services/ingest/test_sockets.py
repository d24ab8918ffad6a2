"""Bytes that no client should send: always a 4xx or a closed connection, in time, never a 500; and nothing smuggled in."""

import asyncio

import pytest

from tests.nats_server import NatsServer
from tests.services.ingest.rig import BATCH, EVENTS, GOOD, Reply, Rig, connected, head, request, serving
from tests.shared.rig import until

JSON = "Content-Type: application/json"
SMUGGLED = request(b'{"event_type":"smuggled","source":"test"}')
SIZE = f"Content-Length: {len(GOOD)}"
CHUNKED = "Transfer-Encoding: chunked"

MALFORMED = {
    "two lengths that differ": head(JSON, "Content-Length: 5", SIZE) + GOOD,
    "two lengths that agree": head(JSON, SIZE, SIZE) + GOOD,
    "a list of lengths": head(JSON, f"Content-Length: {len(GOOD)}, {len(GOOD)}") + GOOD,
    "length and chunked": head(JSON, SIZE, CHUNKED) + b"0\r\n\r\n" + SMUGGLED,
    "chunked and length": head(JSON, CHUNKED, "Content-Length: 4") + b"0\r\n\r\n" + SMUGGLED,
    "chunked twice": head(JSON, "Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n" + SMUGGLED,
    "chunked not last": head(JSON, "Transfer-Encoding: chunked, identity") + b"0\r\n\r\n" + SMUGGLED,
    "almost chunked": head(JSON, "Transfer-Encoding: xchunked") + b"0\r\n\r\n" + SMUGGLED,
    "a negative length": head(JSON, "Content-Length: -5") + GOOD,
    "a signed length": head(JSON, f"Content-Length: +{len(GOOD)}") + GOOD,
    "a length in hex": head(JSON, "Content-Length: 0x25") + GOOD,
    "a length with a blank": head(JSON, "Content-Length: 3 7") + GOOD,
    "a length of other digits": head(JSON, "Content-Length: ³") + GOOD,
    "an endless length": head(JSON, "Content-Length: " + "9" * 30) + GOOD,
    "a length of 2^64": head(JSON, f"Content-Length: {2**64}") + GOOD,
    "a length of 2^64 + some": head(JSON, f"Content-Length: {2**64 + len(GOOD)}") + GOOD,
    "a bad chunk size": head(JSON, CHUNKED) + b"ZZ\r\n" + GOOD,
    "a negative chunk size": head(JSON, CHUNKED) + b"-5\r\n" + GOOD,
    "a chunk size of 2^64": head(JSON, CHUNKED) + b"10000000000000000\r\n" + GOOD,
    "a chunk without its end": head(JSON, CHUNKED) + b"5\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "an endless chunk size line": head(JSON, CHUNKED) + b"0" * 100_000,
    "a header flood": head(JSON, SIZE, *(f"X-{number}: {'y' * 50}" for number in range(5000))) + GOOD,
    "one huge header": head(JSON, SIZE, "X-A: " + "y" * 200_000) + GOOD,
    "an endless request line": b"POST /" + b"x" * 200_000,
    "an endless header": head(JSON)[:-2] + b"X: " + b"y" * 200_000,
    "a blank before the colon": head(JSON, f"Content-Length : {len(GOOD)}") + GOOD,
    "a header without a colon": head(JSON, SIZE, "nothing") + GOOD,
    "a control character in a header": head(JSON, SIZE, "X-A: a\x01b\0c") + GOOD,
    "bare line feeds": head(JSON, SIZE).replace(b"\r\n", b"\n") + GOOD,
    "bare carriage returns": head(JSON, SIZE).replace(b"\r\n", b"\r") + GOOD,
    "a version of the future": head(JSON, SIZE, version="9.9") + GOOD,
    "a version that is none": head(JSON, SIZE, version="one") + GOOD,
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2,
    "noise": bytes(range(255, 0, -1)) * 10,
    "a method that is none": head(JSON, SIZE, method="PO ST") + GOOD,
}


async def status(rig: Rig, data: bytes, *, end: bool = False) -> int:
    """The status of the first answer, 0 for a closed connection."""
    async with connected(rig.port) as socket:
        socket.send(data)
        if end:
            socket.end()
        found = await socket.reply()
        return found.status if found else 0


async def serves(rig: Rig) -> bool:
    return await status(rig, request(GOOD)) == 200


async def test_malformed(rig: Rig) -> None:
    found = dict(zip(MALFORMED, await asyncio.gather(*(status(rig, data) for data in MALFORMED.values())), strict=True))
    assert {what: status for what, status in found.items() if status and not 400 <= status < 500} == {}
    assert await rig.stored() == []
    assert await serves(rig)


@pytest.mark.parametrize("path", [EVENTS, BATCH])
async def test_a_body_that_stops_is_408(rig: Rig, path: str) -> None:
    async with connected(rig.port) as socket:
        socket.send(head(JSON, "Content-Length: 100", path=path) + b'{"event')
        found = await socket.reply()
        assert found is not None
        assert (found.status, found.body["code"]) == (408, "TIMEOUT")
    assert await serves(rig)


async def test_a_body_that_trickles_is_408(rig: Rig) -> None:
    async with connected(rig.port) as socket:
        socket.send(head(JSON, "Content-Length: 1000"))

        async def trickle() -> None:
            while True:
                socket.send(b" ")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(trickle())
        found = await socket.reply()
        dripping.cancel()
        assert found is not None
        assert found.status == 408
    assert await serves(rig)


async def test_chunks_that_trickle_are_408(rig: Rig) -> None:
    assert await status(rig, head(JSON, CHUNKED) + b"5\r\n{") == 408


async def test_a_client_that_ends_halfway_is_let_go(rig: Rig) -> None:
    beginnings = [b"", b"POST", head(JSON, SIZE), head(JSON, SIZE) + GOOD[:-1], head(JSON, CHUNKED) + b"5\r\n{"]
    for sent in beginnings:
        found = await status(rig, sent, end=True)
        assert found == 0 or 400 <= found < 500
    assert await rig.stored() == []
    assert await serves(rig)


async def test_a_client_that_ends_after_its_request_is_answered(rig: Rig) -> None:
    assert await status(rig, request(GOOD), end=True) == 200


async def test_silence_is_closed(nats: NatsServer, express: bool) -> None:
    async with (
        serving(nats.url, express=express, idle_seconds=1) as rig,
        connected(rig.port) as silent,
        connected(rig.port) as slow,
        connected(rig.port) as odd,
        connected(rig.port) as idle,
    ):
        slow.send(b"POST /api")
        odd.send(b"GET /health HTTP/1.1\r\nHost")
        idle.send(request(GOOD))
        assert await idle.reply()
        for socket in (silent, slow, odd, idle):
            assert await socket.closed()


async def test_a_head_that_trickles_is_closed(nats: NatsServer, express: bool) -> None:
    async with serving(nats.url, express=express, idle_seconds=1) as rig, connected(rig.port) as socket:
        socket.send(head(JSON)[:-2] + b"X: ")

        async def trickle() -> None:
            while True:
                socket.send(b"y")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(trickle())
        assert await socket.closed()
        dripping.cancel()


async def test_too_many_connections(nats: NatsServer) -> None:
    async with serving(nats.url, max_connections=2) as rig:
        async with connected(rig.port) as first, connected(rig.port) as second:
            for socket in (first, second):
                socket.send(request(GOOD))
                assert await socket.reply()
            assert await status(rig, b"") == 0
        await until(lambda: serves(rig))


# Unusual, but right.


async def replies(rig: Rig, data: bytes, count: int) -> list[Reply | None]:
    async with connected(rig.port) as socket:
        socket.send(data)
        return [await socket.reply() for _ in range(count)]


async def test_pipelined_requests_are_answered_in_order(rig: Rig) -> None:
    parts, wanted = [], []
    for number in range(60):
        name = b'{"event_type":"good","source":"test","event_id":"e%d"}' % number
        kind = number % 4
        parts.append([request(name), request(b"{}"), request(b"[%s]" % name, path=BATCH), request(name)][kind])
        wanted.append((400, None) if kind == 1 else (200, f"e{number}"))
    found = []
    for reply in await replies(rig, b"".join(parts), 60):
        assert reply is not None
        one = reply.body["results"][0] if "results" in reply.body else reply.body
        found.append((reply.status, one.get("event_id")))
    assert found == wanted
    assert len(await rig.stored()) == 45


async def test_pipelined_requests_of_both_lanes_are_answered_in_order(rig: Rig) -> None:
    data = (
        request(GOOD) + head(path="/nothing", method="GET") + request(GOOD) + head(path="/health", method="GET") + request(b"{}")
    )
    found = await replies(rig, data, 5)
    assert [reply.status if reply else 0 for reply in found] == [200, 404, 200, 200, 400]


async def test_a_connection_that_was_handed_over_goes_on(rig: Rig) -> None:
    """One request after the other, each sent when the last is answered."""
    async with connected(rig.port) as socket:
        for data, wanted in (
            (request(GOOD), 200),
            (head(path="/health", method="GET"), 200),
            (head(path="/health", method="GET"), 200),
            (head(path="/nothing", method="GET"), 404),
            (request(GOOD), 200),
            (request(b"{}"), 400),
        ):
            socket.send(data)
            found = await socket.reply()
            assert found is not None
            assert found.status == wanted


async def test_a_request_in_single_bytes(rig: Rig) -> None:
    async with connected(rig.port) as socket:
        for byte in request(GOOD):
            socket.send(bytes([byte]))
            await asyncio.sleep(0)
        found = await socket.reply()
        assert found is not None
        assert found.status == 200


async def test_chunks(rig: Rig) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (GOOD[:5], GOOD[5:6], GOOD[6:]))
    assert await status(rig, head(JSON, CHUNKED) + body + b"0\r\n\r\n") == 200
    assert len(await rig.stored()) == 1


async def test_a_client_that_asks_before_it_sends(rig: Rig) -> None:
    async with connected(rig.port) as socket:
        socket.send(head(JSON, SIZE, "Expect: 100-continue"))
        first = await socket.reply()
        assert first is not None
        assert first.status == 100
        socket.send(GOOD)
        second = await socket.reply()
        assert second is not None
        assert second.status == 200


async def test_http_1_0_and_close(rig: Rig) -> None:
    for lines, version in (((), "1.0"), (("Connection: close",), "1.1")):
        async with connected(rig.port) as socket:
            socket.send(head(JSON, SIZE, *lines, version=version) + GOOD)
            found = await socket.reply()
            assert found is not None
            assert found.status == 200
            assert await socket.closed()


async def test_a_client_that_does_not_read_is_not_read(rig: Rig) -> None:
    """It sends without end and takes no answer: what the server keeps for it must stay bounded, and others are served."""
    async with connected(rig.port) as deaf:
        body = b"[%s]" % b",".join([b"{}"] * 5)
        sent = 0

        async def pour() -> None:
            nonlocal sent
            while True:
                deaf.send(request(body, path=BATCH) * 100)
                await deaf._writer.drain()
                sent += 100

        deaf._reader._transport.pause_reading()  # type: ignore[attr-defined]
        pouring = asyncio.create_task(pour())
        last = -1

        async def stuck() -> bool:
            nonlocal last
            before, last = last, sent
            await asyncio.sleep(0.2)
            return before == last > 0

        await until(stuck)
        assert await serves(rig)
        pouring.cancel()
