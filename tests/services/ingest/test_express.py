"""The express lane by itself: order, handing over, deadlines, limits, leaving; on the loop that services run on, and asyncio's.

What both lanes answer alike is in test_http.py, test_sockets.py and test_express_fuzz.py.
"""

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from services.ingest import express as module
from services.ingest.express import HANDED_REQUESTS, PIPELINED, Connection, Express
from tests.services.ingest.lanes import Certificates, Lane, Store, certificates, lane, turns
from tests.services.ingest.rig import BATCH, GOOD, Reply, Socket, head, request
from tests.shared.rig import until

JSON = "Content-Type: application/json"
HEALTH = head(path="/health", method="GET")
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the:pytest.PytestDeprecationWarning")

CHUNKED = head(JSON, "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)


@pytest.fixture(params=[uvloop.EventLoopPolicy, asyncio.DefaultEventLoopPolicy], ids=["uvloop", "asyncio"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder: Path = tmp_path_factory.mktemp("tls")
    return certificates(folder)


@asynccontextmanager
async def dialled(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Socket]:
    name = "localhost" if tls else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name)
    try:
        yield Socket(reader, writer)
    finally:
        writer.transport.abort()


async def status(client: Socket) -> int:
    """The status of the next answer; 0 for a closed connection."""
    found = await client.reply()
    return found.status if found else 0


async def reply(client: Socket) -> Reply:
    found = await client.reply()
    assert found is not None, "the connection was closed"
    return found


def front(found: Lane) -> Express:
    assert found.front is not None
    return found.front


def only(found: Lane) -> Connection:
    """The only connection there is."""
    (connection,) = front(found).connections
    return connection


# The order of answers.


async def test_answers_keep_the_order_of_the_requests_whatever_is_stored_first() -> None:
    async with lane() as found, dialled(found.port) as client:
        found.store.holding = True
        one, two = (b'{"event_type":"a","source":"b","event_id":"%s"}' % name for name in (b"one", b"two"))
        client.send(request(one) + request(b"{}") + request(b"[%s,{}]" % one, path=BATCH) + request(two))
        await until(lambda: len(found.store.held) == 2)
        found.store.release(1)
        await turns()
        assert len(found.store.payloads) == 2, "what follows a batch waits for it"
        found.store.release(0)
        await until(lambda: found.store.held)
        found.store.release()
        answers = [await reply(client) for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 400, 200, 200]
        assert answers[0].body["event_id"] == "one"
        assert [result["status"] for result in answers[2].body["results"]] == ["accepted", "rejected"]
        assert answers[3].body["event_id"] == "two"
        assert all("connection" not in answer.headers for answer in answers)


async def test_no_more_than_so_many_requests_of_a_connection_are_under_way() -> None:
    async with lane() as found, dialled(found.port) as client:
        found.store.holding = True
        for _ in range(5 * PIPELINED):
            client.send(request(GOOD))
        await until(lambda: len(found.store.held) == PIPELINED)
        await turns()
        assert len(found.store.held) == PIPELINED
        assert not only(found)._reading
        found.store.holding = False
        found.store.release_all()
        assert [await status(client) for _ in range(5 * PIPELINED)] == [200] * 5 * PIPELINED


async def test_a_bug_is_a_500_and_the_connection_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: Store) -> None:
        raise LookupError("the secret")

    for express in (True, False):
        async with lane(express=express) as found, dialled(found.port) as client:
            with monkeypatch.context() as patched:
                patched.setattr(Store, "room", fail)
                client.send(request(b"[%s]" % GOOD, path=BATCH))
                answer = await reply(client)
            assert (answer.status, answer.body["code"]) == (500, "INTERNAL")
            assert "secret" not in str(answer.body)
            client.send(request(GOOD))
            assert await status(client) == 200


async def test_a_client_that_left_is_no_trouble() -> None:
    async with lane() as found:
        found.store.holding = True
        async with dialled(found.port) as client:
            client.send(request(GOOD) * 2)
            await until(lambda: len(found.store.held) == 2)
        async with dialled(found.port) as client:
            client.send(request(b"[%s]" % GOOD, path=BATCH))
            await until(lambda: len(found.store.held) == 3)
        found.store.release_all()
        await until(lambda: not front(found).connections)
        async with dialled(found.port) as client:
            found.store.holding = False
            client.send(request(GOOD))
            assert await status(client) == 200


async def test_half_closed_after_its_requests_it_still_gets_the_answers() -> None:
    async with lane() as found, dialled(found.port) as client:
        found.store.holding = True
        client.send(request(GOOD) * 2)
        client.end()
        await until(lambda: found.store.held and only(found)._ending)
        found.store.release_all()
        assert [await status(client) for _ in range(3)] == [200, 200, 0]
    async with lane() as found, dialled(found.port) as client:
        client.send(request(GOOD) * (2 * PIPELINED + 3))
        client.end()
        assert [await status(client) for _ in range(2 * PIPELINED + 4)] == [200] * (2 * PIPELINED + 3) + [0]


# Handing over.


async def test_what_is_owed_goes_out_before_the_connection_changes_hands() -> None:
    async with lane() as found, dialled(found.port) as client:
        found.store.holding = True
        client.send(request(GOOD) + request(b"{}") + HEALTH + request(GOOD))
        await until(lambda: only(found)._handing)
        await turns()
        assert len(found.store.held) == 1, "what follows the odd request waits with it"
        found.store.release()
        answers = [await reply(client) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 400, 200]
        assert answers[2].body["status"] == "healthy"
        await until(lambda: found.store.held)
        found.store.release()
        assert await status(client) == 200
        assert not front(found).connections


async def odd_and_plain(client: Socket) -> None:
    """A connection that aiohttp has, with all that it may carry."""
    client.send(HEALTH)
    assert (await reply(client)).body["status"] == "healthy"
    client.send(request(GOOD))
    assert await status(client) == 200
    client.send(CHUNKED)
    assert await status(client) == 200
    client.send(head(JSON, f"Content-Length: {len(GOOD)}", "Expect: 100-continue"))
    assert await status(client) == 100
    client.send(GOOD)
    assert await status(client) == 200
    client.send(request(b'{"event_type":"large","source":"s","data":"%s"}' % (b"x" * 200_000)))
    assert await status(client) == 200
    client.send(request(b"[%s,%s]" % (GOOD, GOOD), path=BATCH) + request(b"{}") + request(GOOD))
    assert [await status(client) for _ in range(3)] == [200, 400, 200]


async def test_a_connection_that_was_handed_over_goes_on() -> None:
    async with lane() as found, dialled(found.port) as client:
        await odd_and_plain(client)
        assert len(found.store.payloads) == 7


@pytest.mark.parametrize("first", [CHUNKED, head(JSON, f"Content-Length: {len(GOOD)}", "Expect: 100-continue") + GOOD])
async def test_an_odd_request_in_pieces_is_handed_over_with_all_its_bytes(first: bytes) -> None:
    async with lane() as found:
        for size in (1, 7, 50):
            async with dialled(found.port) as client:
                for start in range(0, len(first), size):
                    client.send(first[start : start + size])
                    await turns(3)
                assert await status(client) in (100, 200)
        await until(lambda: len(found.store.payloads) == 3)


async def test_aiohttp_closes_a_connection_after_a_hundred_events() -> None:
    async with lane() as found, dialled(found.port) as client:
        client.send(HEALTH)
        assert await status(client) == 200
        for number in range(1, HANDED_REQUESTS + 1):
            client.send([request(GOOD), request(b"[%s]" % GOOD, path=BATCH), request(b"{}")][number % 3])
            answer = await reply(client)
            assert (answer.headers.get("connection") == "close") == (number == HANDED_REQUESTS)
            if number == 50:
                client.send(HEALTH)
                assert await status(client) == 200, "what is no event does not count"
        assert await client.closed()


async def test_the_express_lane_closes_none() -> None:
    async with lane() as found, dialled(found.port) as client:
        for _ in range(2 * HANDED_REQUESTS):
            client.send(request(GOOD))
            assert "connection" not in (await reply(client)).headers
        assert len(front(found).connections) == 1


async def test_what_aiohttp_has_is_forgotten_when_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.01)
    async with lane() as found:
        async with dialled(found.port) as client:
            client.send(HEALTH)
            assert await status(client) == 200
            assert len(front(found)._handed) == 1
        await until(lambda: not front(found)._handed)


# Deadlines and limits.


@pytest.mark.parametrize("path", ["/api/v1/events", BATCH])
async def test_a_body_that_is_late(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.01)
    async with lane(body_seconds=1) as found, dialled(found.port) as client:
        client.send(request(GOOD) + head(JSON, "Content-Length: 100", "X-Request-Id: late-1", path=path) + b"{")
        assert await status(client) == 200
        answer = await reply(client)
        assert (answer.status, answer.body["code"], answer.body["request_id"]) == (408, "TIMEOUT", "late-1")
        assert (answer.headers["connection"], answer.headers["x-request-id"]) == ("close", "late-1")
        assert await client.closed()
        assert len(found.store.payloads) == 1


@pytest.mark.parametrize("sent", [b"", b"POST", head(JSON)[:-3]])
async def test_a_head_that_is_late(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.01)
    async with lane(idle_seconds=1) as found, dialled(found.port) as fresh, dialled(found.port) as used:
        fresh.send(sent)
        used.send(request(GOOD) + sent)
        assert await status(used) == 200
        assert await fresh.closed()
        assert await used.closed()


async def test_waiting_for_the_broker_is_not_idleness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.01)
    async with lane(idle_seconds=1) as found, dialled(found.port) as client, dialled(found.port) as idle:
        found.store.holding = True
        client.send(request(GOOD))
        assert await idle.closed()  # the deadline of both is over, and was looked at
        await until(lambda: found.store.held)
        found.store.release()
        assert await status(client) == 200


async def test_the_limit_of_connections_counts_those_of_aiohttp_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.01)
    async with lane(max_connections=2) as found:
        async with dialled(found.port) as first, dialled(found.port) as second:
            first.send(request(GOOD))
            second.send(HEALTH)
            assert [await status(first), await status(second)] == [200, 200]
            async with dialled(found.port) as third:
                assert await third.closed()
            first.send(request(GOOD))
            assert await status(first) == 200

        async def free() -> bool:
            async with dialled(found.port) as client:
                client.send(request(GOOD))
                return await status(client) == 200

        await until(free)


def deaf(port: int) -> socket.socket:
    """A client that will not read, with as little room for answers as can be."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.setblocking(False)
    return client


async def flood(client: socket.socket, found: Lane) -> Connection:
    """Ask for long answers until the lane reads no more; then send as much as the system takes."""
    many = request(b"[" + b"1," * 900 + b"1]", path=BATCH)
    while not front(found).connections or only(found)._writable:
        try:
            client.send(many)
        except BlockingIOError:
            await asyncio.sleep(0.001)
        await turns(2)
    blocked = 0
    while blocked < 20:
        try:
            client.send(many)
            blocked = 0
        except BlockingIOError:
            blocked += 1
        await turns(2)
    return only(found)


async def test_a_client_that_does_not_read_is_not_read_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.01)
    async with lane() as found:
        client = deaf(found.port)
        connection = await flood(client, found)
        assert not connection._reading
        answer = 150_000
        assert connection._transport.get_write_buffer_size() < PIPELINED * answer + 100_000
        assert len(connection._buffer) < 300_000
        async with dialled(found.port) as other:
            other.send(request(GOOD))
            assert await status(other) == 200
        front(found).idle_seconds = 0.05
        await until(lambda: not front(found).connections)
        client.close()


async def test_a_client_that_reads_late_gets_all_its_answers() -> None:
    async with lane() as found:
        client = deaf(found.port)
        connection = await flood(client, found)
        before = connection._transport.get_write_buffer_size()
        reader, writer = await asyncio.open_connection(sock=client)
        late = Socket(reader, writer)
        for _ in range(10):
            assert (await reply(late)).body["processed"] == 901
        assert before > 0
        writer.transport.abort()


# Leaving.


async def test_leaving_answers_what_is_in_flight_and_says_so() -> None:
    store = Store()
    store.holding = True
    leaving = lane(store=store)
    found = await leaving.__aenter__()
    async with dialled(found.port) as idle, dialled(found.port) as busy, dialled(found.port) as half:
        half.send(request(GOOD)[:-3])
        idle.send(b"POST")
        busy.send(request(GOOD) * 2)
        await until(lambda: len(store.held) == 2 and len(front(found).connections) == 3)
        connection = next(each for each in front(found).connections if each._owed)
        gone = asyncio.create_task(leaving.__aexit__(None, None, None))
        assert await idle.closed()
        assert await half.closed()
        busy.send(request(GOOD) * 50)
        await turns()
        assert connection._buffer == b"", "what comes now is not kept"
        assert not gone.done()
        store.release_all()
        first, last = await reply(busy), await reply(busy)
        assert (first.status, last.status) == (200, 200)
        assert ("connection" in first.headers, last.headers["connection"]) == (False, "close")
        assert await busy.closed()
        await asyncio.wait_for(gone, 60)
        assert len(store.payloads) == 2


async def test_leaving_takes_no_longer_than_it_may() -> None:
    store = Store()
    store.holding = True
    leaving = lane(store=store, drain_seconds=0.2)
    found = await leaving.__aenter__()
    async with dialled(found.port) as stuck:
        stuck.send(request(GOOD))
        await until(lambda: store.held)
        await asyncio.wait_for(leaving.__aexit__(None, None, None), 30)
        assert await stuck.closed()
        assert not front(found).connections or only(found)._transport.is_closing()
        store.release_all()


async def test_leaving_does_not_wait_for_a_client_that_does_not_read() -> None:
    leaving = lane(drain_seconds=0.2)
    found = await leaving.__aenter__()
    client = deaf(found.port)
    await flood(client, found)
    await asyncio.wait_for(leaving.__aexit__(None, None, None), 30)
    client.close()


async def test_who_gives_up_waiting_for_the_drain_leaves_nothing_open() -> None:
    """The runtime's own timeout."""
    store = Store()
    store.holding = True
    leaving = lane(store=store, drain_seconds=60)
    found = await leaving.__aenter__()
    async with dialled(found.port) as stuck:
        stuck.send(request(GOOD))
        await until(lambda: store.held)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await leaving.__aexit__(None, None, None)
        assert await stuck.closed()
        sweeper = front(found)._sweeper
        await turns()
        assert sweeper is not None
        assert sweeper.done()
    gc.collect()


# TLS.


@pytest.mark.parametrize("express", [True, False], ids=["express", "aiohttp"])
async def test_over_tls(tls: Certificates, express: bool) -> None:
    async with lane(express=express, tls=tls.server) as found:
        async with dialled(found.port, tls.client) as client:
            client.send(request(GOOD) + request(b"{}") + request(b"[%s]" % GOOD, path=BATCH))
            assert [await status(client) for _ in range(3)] == [200, 400, 200]
            assert not express or len(front(found).connections) == 1
            await odd_and_plain(client)
        async with dialled(found.port, tls.client) as client:
            for byte in request(GOOD):
                client.send(bytes([byte]))
            assert await status(client) == 200
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with dialled(found.port, ssl.create_default_context()):
                pass
        async with dialled(found.port) as plain:
            plain.send(request(GOOD))
            assert await plain.closed()
        assert len(found.store.payloads) == 10


async def test_over_tls_what_is_owed_goes_out_before_handing_over(tls: Certificates) -> None:
    async with lane(tls=tls.server) as found, dialled(found.port, tls.client) as client:
        found.store.holding = True
        client.send(request(GOOD) + HEALTH)
        await until(lambda: found.store.held and only(found)._handing)
        found.store.release()
        assert [await status(client) for _ in range(2)] == [200, 200]
        for number in range(1, HANDED_REQUESTS + 1):
            client.send(request(b"{}"))
            assert ((await reply(client)).headers.get("connection") == "close") == (number == HANDED_REQUESTS)
        assert await client.closed()


async def test_over_tls_leaving_answers_what_is_in_flight(tls: Certificates) -> None:
    store = Store()
    store.holding = True
    leaving = lane(store=store, tls=tls.server)
    found = await leaving.__aenter__()
    async with dialled(found.port, tls.client) as idle, dialled(found.port, tls.client) as busy:
        busy.send(request(GOOD))
        await until(lambda: store.held and len(front(found).connections) == 2)
        gone = asyncio.create_task(leaving.__aexit__(None, None, None))
        assert await idle.closed()
        store.release_all()
        assert (await reply(busy)).headers["connection"] == "close"
        assert await busy.closed()
        await asyncio.wait_for(gone, 60)
