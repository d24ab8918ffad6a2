"""Delivery connections against servers that play every trick; where aiohttp's client can be asked too, it must say the same."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import uvloop
from aiohttp import web
from msgspec import Raw

from services.forward import connection as module
from services.forward.connection import BODY_BYTES, Endpoint, Pool
from services.forward.targets.http import Http, open_http
from services.forward.verdict import Failed, Refused
from tas_mcp.messages import Event
from tas_mcp.targets import HttpConfig, HttpTarget
from tests.services.forward.reference import Reference, open_reference
from tests.services.forward.rig import OPEN
from tests.services.forward.servers.hostile import (
    Hostile,
    Peer,
    Script,
    after,
    answering,
    early,
    endless,
    silent,
    trickling,
    trickling_body,
)
from tests.services.ingest.lanes import Certificates, certificates
from tests.shared.rig import until

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the:pytest.PytestDeprecationWarning")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ANSWER_SECONDS = 60.0


@pytest.fixture(params=[uvloop.EventLoopPolicy, asyncio.DefaultEventLoopPolicy], ids=["uvloop", "asyncio"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """The loop that services run on, and asyncio's."""
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


class Outcome(NamedTuple):
    verdict: str
    status: int
    retry_after: float = 0.0


DELIVERED = Outcome("delivered", 200)
NO_ANSWER = Outcome("failed", 0)


def event(size: int = 10) -> Event:
    return Event(event_id="e1", event_type="a.b", source="s", timestamp=1, accepted_at=1, data=Raw(b'"%s"' % (b"x" * size)))


async def send(sender: Http | Reference, size: int = 10) -> Outcome:
    """Deliver once."""
    async with asyncio.timeout(ANSWER_SECONDS):
        try:
            return Outcome("delivered", await sender.send(event(size)))
        except Refused as error:
            return Outcome("refused", error.status)
        except Failed as error:
            return Outcome("failed", error.status, round(error.retry_after))


async def reason(sender: Http) -> str:
    """What went wrong."""
    with pytest.raises(Failed) as caught:
        await sender.send(event())
    assert caught.value.status == 0
    return caught.value.detail


def target(url: str) -> HttpTarget:
    return HttpTarget(id="t", endpoint=url, config=HttpConfig(format="data"))


@asynccontextmanager
async def own(url: str, tls: ssl.SSLContext | None = None, connect_seconds: float = 5.0) -> AsyncIterator[Http]:
    """As ``open_http``, with the TLS context of a test."""
    parts = urlsplit(url)
    endpoint = Endpoint(parts.hostname or "", parts.port or 0, tls if parts.scheme == "https" else None)
    async with Pool(endpoint, connect_seconds, OPEN).running() as pool:
        yield Http(target(url), pool)


@asynccontextmanager
async def reference(url: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Reference]:
    async with open_reference(target(url), tls) as sender:
        yield sender


CLIENTS: dict[str, Callable[..., Any]] = {"own": own, "aiohttp": reference}


@asynccontextmanager
async def tried(*scripts: Script, client: str = "own") -> AsyncIterator[tuple[Any, Hostile]]:
    """A client and the hostile server that it sends to."""
    async with Hostile(*scripts).listening() as server, CLIENTS[client](f"http://127.0.0.1:{server.port}/hook") as sender:
        yield sender, server


@asynccontextmanager
async def secured(authority: Certificates, *scripts: Script, client: str = "own") -> AsyncIterator[tuple[Any, Hostile]]:
    """As ``tried``, over TLS."""
    found = Hostile(*scripts)
    async with (
        found.listening(authority.server),
        CLIENTS[client](f"https://localhost:{found.port}/", tls=authority.client) as sender,
    ):
        yield sender, found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder: Path = tmp_path_factory.mktemp("tls")
    return certificates(folder)


# What one answer comes to, with both clients.

ANSWERS: dict[str, tuple[Script, Outcome]] = {
    "plain": (answering(OK), DELIVERED),
    "in pieces": (answering(OK[:5], OK[5:20], OK[20:-1], OK[-1:]), DELIVERED),
    "201": (answering(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"), Outcome("delivered", 201)),
    "204": (answering(b"HTTP/1.1 204 No Content\r\n\r\n"), Outcome("delivered", 204)),
    "no reason phrase": (answering(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"), DELIVERED),
    "304": (answering(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n"), Outcome("refused", 304)),
    "301 is not followed": (
        answering(b"HTTP/1.1 301 M\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"),
        Outcome("refused", 301),
    ),
    "307 is not followed": (
        answering(b"HTTP/1.1 307 T\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"),
        Outcome("refused", 307),
    ),
    "404": (answering(b"HTTP/1.1 404 N\r\nContent-Length: 3\r\n\r\nnot"), Outcome("refused", 404)),
    "408": (answering(b"HTTP/1.1 408 T\r\nContent-Length: 0\r\n\r\n"), Outcome("failed", 408)),
    "425": (answering(b"HTTP/1.1 425 E\r\nContent-Length: 0\r\n\r\n"), Outcome("failed", 425)),
    "429": (answering(b"HTTP/1.1 429 T\r\nretry-after: 7\r\nContent-Length: 0\r\n\r\n"), Outcome("failed", 429, 7)),
    "429 with nonsense": (
        answering(b"HTTP/1.1 429 T\r\nRetry-After: -7 or so\r\nContent-Length: 0\r\n\r\n"),
        Outcome("failed", 429),
    ),
    "500": (answering(b"HTTP/1.1 500 E\r\nContent-Length: 2\r\n\r\nno"), Outcome("failed", 500)),
    "503": (answering(b"HTTP/1.1 503 E\r\nRetry-After: 120\r\nContent-Length: 2\r\n\r\nno"), Outcome("failed", 503, 120)),
    "599": (answering(b"HTTP/1.1 599 E\r\nContent-Length: 0\r\n\r\n"), Outcome("failed", 599)),
    "100 that nobody asked for": (answering(b"HTTP/1.1 100 Continue\r\n\r\n" + OK), DELIVERED),
    "100 in a segment of its own": (answering(b"HTTP/1.1 100 Continue\r\n\r\n", OK), DELIVERED),
    "interim answers": (answering(b"HTTP/1.1 102 P\r\n\r\n" * 3 + b"HTTP/1.1 103 E\r\nLink: </a>\r\n\r\n" + OK), DELIVERED),
    "an interim answer with headers that do not count": (
        answering(b"HTTP/1.1 103 E\r\nRetry-After: 9\r\n\r\n" + b"HTTP/1.1 503 U\r\nContent-Length: 0\r\n\r\n"),
        Outcome("failed", 503),
    ),
    "chunked": (answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), DELIVERED),
    "chunked, with all that it may have": (
        answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1;a=b\r\no", b"\r\n1\r\nk\r\n0\r\nX-Trailer: 1\r\n\r\n"),
        DELIVERED,
    ),
    "till the connection ends": (answering(b"HTTP/1.1 200 OK\r\n\r\nok", then=Peer.close), DELIVERED),
    "till the connection ends, empty": (answering(b"HTTP/1.1 200 OK\r\n\r\n", then=Peer.close), DELIVERED),
    "till the connection ends, an error": (answering(b"HTTP/1.1 500 E\r\n\r\nno", then=Peer.close), Outcome("failed", 500)),
    "said to close": (
        answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", then=Peer.close),
        DELIVERED,
    ),
    "said to close, and does not": (answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"), DELIVERED),
    "closed without being said": (answering(OK, then=Peer.close), DELIVERED),
    "half closed": (answering(OK, then=Peer.end), DELIVERED),
    "half closed with a body till the end": (answering(b"HTTP/1.1 200 OK\r\n\r\nok", then=Peer.end), DELIVERED),
    "HTTP/1.0": (answering(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", then=Peer.close), DELIVERED),
    "HTTP/1.0 till the end": (answering(b"HTTP/1.0 200 OK\r\n\r\nok", then=Peer.close), DELIVERED),
    "HTTP/1.0, kept": (answering(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"), DELIVERED),
    "a body as long as is read": (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + b"x" * BODY_BYTES), DELIVERED),
    "a longer one": (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000), DELIVERED),
    "a longer one, refused": (
        answering(b"HTTP/1.1 403 N\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000),
        Outcome("refused", 403),
    ),
    "an endless body": (endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 8192), DELIVERED),
    "an endless body, an error": (endless(b"HTTP/1.1 502 E\r\n\r\n", b"x" * 8192), Outcome("failed", 502)),
    "endless chunks": (
        endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n%s\r\n" % (b"x" * 4096)),
        DELIVERED,
    ),
    "a body longer than can be": (endless(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n", b"x" * 8192), DELIVERED),
    "an endless header": (endless(b"HTTP/1.1 200 OK\r\nX-A: ", b"x" * 8192), NO_ANSWER),
    "endless headers": (endless(b"HTTP/1.1 200 OK\r\n", b"X-A: %s\r\n" % (b"x" * 1000)), NO_ANSWER),
    "an endless status line": (endless(b"HTTP/1.1 200 ", b"x" * 8192), NO_ANSWER),
    "a second answer with the first": (answering(OK + b"HTTP/1.1 500 E\r\nContent-Length: 0\r\n\r\n"), DELIVERED),
    "a second answer after the first": (answering(OK, b"HTTP/1.1 500 E\r\nContent-Length: 0\r\n\r\n"), DELIVERED),
    "closed without an answer": (answering(b"", then=Peer.close), NO_ANSWER),
    "reset without an answer": (answering(b"", then=Peer.reset), NO_ANSWER),
    "closed in the status line": (answering(b"HTTP/1.1 2", then=Peer.close), NO_ANSWER),
    "closed in the head": (answering(b"HTTP/1.1 200 OK\r\nX-A", then=Peer.close), NO_ANSWER),
    "closed after an interim answer": (answering(b"HTTP/1.1 100 Continue\r\n\r\n", then=Peer.close), NO_ANSWER),
    "closed in the body": (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", then=Peer.close), NO_ANSWER),
    "closed in a chunk": (answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok", then=Peer.close), NO_ANSWER),
    "closed between chunks": (
        answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", then=Peer.close),
        NO_ANSWER,
    ),
    "reset in the body": (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", b"", then=Peer.reset), NO_ANSWER),
    "garbage": (answering(bytes(range(256)), then=Peer.close), NO_ANSWER),
    "SSH": (answering(b"SSH-2.0-OpenSSH_9.6\r\n", then=Peer.close), NO_ANSWER),
    "a TLS alert": (answering(b"\x15\x03\x01\x00\x02\x02\x46", then=Peer.close), NO_ANSWER),
    "no status": (answering(b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n"), NO_ANSWER),
    "a request": (answering(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n"), NO_ANSWER),
    "another protocol": (answering(b"ICY 200 OK\r\n\r\n", then=Peer.close), NO_ANSWER),
    "a bad chunk": (answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nok\r\n"), NO_ANSWER),
    "length and chunked": (
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        NO_ANSWER,
    ),
    "two lengths": (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"), NO_ANSWER),
    "a negative length": (answering(b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"), NO_ANSWER),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("script", "wanted"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_an_answer(client: str, script: Script, wanted: Outcome) -> None:
    async with tried(script, answering(OK), client=client) as (sender, server):
        assert await send(sender) == wanted
        assert server.requests <= 1, "it is not sent again on a fresh connection"


LATE = "a second answer after the first"
"""Whoever asks before it comes takes it for the answer: no client of HTTP/1.1 can know better."""


@pytest.mark.parametrize("name", sorted(ANSWERS.keys() - {LATE}))
async def test_whatever_was_answered_the_next_delivery_is_a_new_matter(name: str) -> None:
    """By the same pool, on the same connection or on another: never does it get what was left of the last answer."""
    script, wanted = ANSWERS[name]
    async with tried(script, answering(OK)) as (sender, server):
        await send(sender)
        first = server.peers[0]
        again = await send(sender)
        assert again == (wanted if len(server.peers) == 1 or len(first.requests) > 1 else DELIVERED)
        assert len(server.peers) <= 2


async def test_a_date_in_retry_after() -> None:
    date = formatdate(time.time() + 100, usegmt=True).encode()
    for client in CLIENTS:
        script = answering(b"HTTP/1.1 503 E\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n" % date)
        async with tried(script, client=client) as (sender, _):
            found = await send(sender)
            assert found.status == 503
            assert 95 <= found.retry_after <= 101


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("then", [None, Peer.close])
async def test_an_early_answer_counts_though_the_body_is_not_read(client: str, then: Callable[[Peer], None] | None) -> None:
    answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with tried(early(answer, then), answering(OK), client=client) as (sender, _):
        assert await send(sender, 20_000) == Outcome("refused", 413)
        assert await send(sender) == DELIVERED


async def test_a_connection_with_an_unread_request_is_not_used_again() -> None:
    async with tried(early(OK), answering(OK)) as (sender, server):
        assert await send(sender, 30_000_000) == DELIVERED
        assert await send(sender) == DELIVERED
        assert server.connections == 2


# What only our own client promises.


@pytest.mark.parametrize(
    ("beginning", "more"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A: ", b"x" * 8192),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: b\r\n" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 8192),
    ],
    ids=["a trailer", "trailers", "a chunk's extension"],
)
async def test_what_never_ends_after_the_head_is_cut_and_its_status_counts(beginning: bytes, more: bytes) -> None:
    async with tried(endless(beginning, more)) as (sender, server):
        found = await send(sender)
        assert found in (DELIVERED, NO_ANSWER)  # llhttp may have a limit of its own
        assert await server.peers[0].gone()


async def test_interim_answers_without_end() -> None:
    async with tried(endless(b"", b"HTTP/1.1 102 Processing\r\nX-A: b\r\n\r\n" * 100)) as (sender, _):
        assert "larger than 65536 bytes" in await reason(sender)


async def test_a_large_head_is_read() -> None:
    async with tried(answering(b"HTTP/1.1 200 OK\r\nX-A: %s\r\nContent-Length: 0\r\n\r\n" % (b"x" * 60_000))) as (sender, server):
        assert [await send(sender), await send(sender)] == [DELIVERED, DELIVERED]
        assert server.connections == 1


async def test_a_switch_of_protocols_is_no_answer() -> None:
    for more in (b"", b"Upgrade: h2c\r\nConnection: Upgrade\r\n"):
        async with tried(answering(b"HTTP/1.1 101 Switching Protocols\r\n" + more + b"\r\n" + OK)) as (sender, server):
            assert "no HTTP/1.1" in await reason(sender)
            assert await server.peers[0].gone()


async def test_an_unknown_coding_ends_with_its_connection() -> None:
    for coding in (b"gzip", b"identity"):
        script = answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\nok" % coding, then=Peer.close)
        async with tried(script) as (sender, _):
            assert await send(sender) == DELIVERED


async def test_a_trailer_is_no_header() -> None:
    script = answering(b"HTTP/1.1 503 U\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nRetry-After: 9\r\n\r\n")
    async with tried(script) as (sender, _):
        assert await send(sender) == Outcome("failed", 503, 0)


async def test_the_beginning_of_a_refusal_is_kept() -> None:
    body = b"why: " + b"x" * 70_000
    async with tried(answering(b"HTTP/1.1 400 B\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))) as (sender, _):
        with pytest.raises(Refused) as caught:
            await sender.send(event())
        assert caught.value.detail.startswith("the target answered 400: why: xxx")
        assert len(caught.value.detail) < 300


@pytest.mark.parametrize("answer", [OK, ANSWERS["chunked"][0], b"HTTP/1.1 204 N\r\n\r\n"])
async def test_a_connection_is_kept(answer: bytes | Script) -> None:
    async with tried(answering(answer) if isinstance(answer, bytes) else answer) as (sender, server):
        for _ in range(20):
            assert (await send(sender)).verdict == "delivered"
        assert (server.connections, server.requests) == (1, 20)


# Closed while idle.


async def test_closed_while_idle_another_connection_is_used() -> None:
    async with tried(answering(OK, then=Peer.close), answering(OK)) as (sender, server):
        assert await send(sender) == DELIVERED
        assert await server.peers[0].gone()
        assert await send(sender) == DELIVERED
        assert (server.connections, server.requests) == (2, 2)


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
async def test_closed_as_the_request_comes_it_is_sent_once_more(end: Callable[[Peer], None]) -> None:
    async with tried(after(1, answering(b"", then=end)), answering(OK)) as (sender, server):
        assert [await send(sender), await send(sender)] == [DELIVERED, DELIVERED]
        assert (server.connections, server.requests) == (2, 3)


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
async def test_once_more_and_no_more(end: Callable[[Peer], None]) -> None:
    gone = answering(b"", then=end)
    async with tried(after(1, gone), gone, answering(OK)) as (sender, server):
        assert [await send(sender), await send(sender)] == [DELIVERED, NO_ANSWER]
        assert (server.connections, server.requests) == (2, 3)


@pytest.mark.parametrize("part", [b"\r\n", b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 C\r\n\r\n", OK[:-1], b"\0"])
@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
async def test_not_again_when_part_of_an_answer_came(part: bytes, end: Callable[[Peer], None]) -> None:
    async with tried(after(1, answering(part, b"", then=end)), answering(OK)) as (sender, server):
        assert [await send(sender), await send(sender)] == [DELIVERED, NO_ANSWER]
        assert (server.connections, server.requests) == (1, 2)


async def test_what_comes_while_idle_is_no_answer() -> None:
    """nginx and HAProxy say 408 when they close an idle connection."""

    async def impatient(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await asyncio.sleep(0.01)
        await peer.send(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    async with tried(impatient, answering(OK)) as (sender, server):
        assert await send(sender) == DELIVERED
        assert await server.peers[0].gone()
        assert await send(sender) == DELIVERED
        assert server.connections == 2


# Slow, and given up.


@pytest.mark.parametrize("script", [silent, trickling, trickling_body])
@pytest.mark.parametrize("client", CLIENTS)
async def test_giving_up_closes_the_connection(client: str, script: Script) -> None:
    async with tried(script, answering(OK), client=client) as (sender, server):
        attempt = asyncio.create_task(sender.send(event()))
        await until(lambda: server.peers and server.peers[0].requests)
        assert not (await asyncio.wait((attempt,), timeout=0.15))[0], "it was to hang"
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        assert await server.peers[0].gone()
        assert await send(sender) == DELIVERED
        assert server.connections == 2


async def test_closing_the_pool_closes_what_is_under_way() -> None:
    async with Hostile(silent).listening() as server:
        async with own(f"http://127.0.0.1:{server.port}/") as sender:
            under_way = asyncio.create_task(sender.send(event()))
            await until(lambda: server.requests)
        assert await server.peers[0].gone()
        under_way.cancel()
        await asyncio.gather(under_way, return_exceptions=True)


# The pool.


async def test_never_more_connections_than_requests_at_a_time() -> None:
    async with tried(answering(OK)) as (sender, server):

        async def work() -> None:
            for _ in range(25):
                assert await send(sender) == DELIVERED

        await asyncio.gather(*(work() for _ in range(8)))
        assert server.requests == 200
        assert server.connections <= 8


async def test_the_last_used_is_used_first_and_the_others_go_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.2)
    async with tried(answering(OK)) as (sender, server):
        await asyncio.gather(*(send(sender) for _ in range(3)))
        assert server.connections == 3
        for _ in range(10):
            await send(sender)
        assert sorted(len(peer.requests) for peer in server.peers) == [1, 1, 11]
        busy = max(server.peers, key=lambda peer: len(peer.requests))

        async def still() -> bool:
            await send(sender)
            return all(peer.left for peer in server.peers if peer is not busy)

        await until(still)
        await until(lambda: busy.left)
        assert server.connections == 3


async def test_old_connections_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGE_SECONDS", 0.0)
    async with tried(answering(OK)) as (sender, server):
        for _ in range(3):
            assert await send(sender) == DELIVERED
        assert server.connections == 3
        assert await server.peers[0].gone()


# Connecting.


def resolving(monkeypatch: pytest.MonkeyPatch, answer: list[tuple[str, int]] | Exception) -> list[str]:
    """Names resolve to ``answer``; the names that are asked for."""
    asked = []
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def getaddrinfo(host: str, *rest: Any, **options: Any) -> list[Any]:
        if not host.endswith(".test"):  # uvloop asks for addresses, too
            return await real(host, *rest, **options)
        asked.append(host)
        if isinstance(answer, Exception):
            raise answer
        found = []
        for address, port in answer:
            family, rest = (socket.AF_INET6, (0, 0)) if ":" in address else (socket.AF_INET, ())
            found.append((family, socket.SOCK_STREAM, 6, "", (address, port, *rest)))
        return found

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    return asked


async def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolving(monkeypatch, socket.gaierror(-2, "Name or service not known"))
    async with own("http://nothing.test:80/") as sender:
        for _ in range(2):
            assert await reason(sender) == "no connection to nothing.test:80: [Errno -2] Name or service not known"
        assert asked == ["nothing.test"] * 2, "a failure is not remembered"


@pytest.mark.parametrize("name", ["x" * 64 + ".test", "a..test", "ä..test"])
async def test_a_name_that_cannot_be_one(name: str) -> None:
    async with own(f"http://{name}:80/") as sender:
        assert (await reason(sender)).startswith(f"no connection to {name}:80")


async def test_connection_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for client in CLIENTS.values():
            async with client(f"http://127.0.0.1:{port}/") as sender:
                assert await send(sender) == NO_ANSWER


async def test_addresses_are_remembered_for_a_while_and_asked_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Hostile(answering(OK, then=Peer.close)).listening() as server:
        asked = resolving(monkeypatch, [("127.0.0.1", server.port)])
        async with own(f"http://a.test:{server.port}/") as sender:
            for _ in range(3):
                assert await send(sender) == DELIVERED
            assert asked == ["a.test"]
            monkeypatch.setattr(module, "DNS_SECONDS", 0.0)
            assert await send(sender) == DELIVERED
            assert len(asked) == 2


IPV6 = pytest.mark.skipif(not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")


@IPV6
@pytest.mark.parametrize("listens", ["127.0.0.1", "::1"])
async def test_the_address_that_answers_is_used(monkeypatch: pytest.MonkeyPatch, listens: str) -> None:
    async with Hostile(answering(OK)).listening(host=listens) as server:
        resolving(monkeypatch, [("::1", server.port), ("127.0.0.1", server.port)])
        async with own(f"http://both.test:{server.port}/") as sender:
            assert await send(sender) == DELIVERED
            assert server.connections == 1


@IPV6
async def test_an_address_that_says_nothing_does_not_hold_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Happy eyeballs: the other address is tried after a quarter of a second."""
    with socket.socket(socket.AF_INET6) as deaf:
        deaf.bind(("::1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        filling = [socket.socket(socket.AF_INET6) for _ in range(3)]
        for each in filling:  # its queue is full now: who connects hears nothing
            each.setblocking(False)
            each.connect_ex(("::1", port))
        async with Hostile(answering(OK)).listening(port=port) as server:
            resolving(monkeypatch, [("::1", port), ("127.0.0.1", port)])
            async with own(f"http://both.test:{port}/") as sender:
                began = time.monotonic()
                assert await send(sender) == DELIVERED
                assert time.monotonic() - began < 30
                assert server.connections == 1
            async with own(f"http://[::1]:{port}/", connect_seconds=0.2) as sender:
                resolving(monkeypatch, [("::1", port)])
                assert await reason(sender) == f"no connection to ::1:{port} within 0.2 s"
        for each in filling:
            each.close()


# TLS.


@pytest.mark.parametrize("client", CLIENTS)
async def test_tls(authority: Certificates, client: str) -> None:
    async with secured(authority, answering(OK), client=client) as (sender, server):
        for _ in range(3):
            assert await send(sender, 100_000) == DELIVERED
        assert server.connections == 1


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["unknown CA", "wrong name"])
async def test_tls_is_verified(authority: Certificates, host: str) -> None:
    context = authority.client if host == "127.0.0.1" else ssl.create_default_context()
    async with Hostile(answering(OK)).listening(authority.server) as server:
        for client in CLIENTS.values():
            async with client(f"https://{host}:{server.port}/", tls=context) as sender:
                assert await send(sender) == NO_ANSWER
        async with own(f"https://{host}:{server.port}/", context) as sender:
            assert (await reason(sender)).startswith(f"TLS with {host} failed: ")
        if host == "localhost":
            async with open_http(target(f"https://{host}:{server.port}/"), OPEN) as sender:
                assert (await reason(sender)).startswith(f"TLS with {host} failed: ")
        assert server.requests == 0


async def test_tls_with_one_who_speaks_none(authority: Certificates) -> None:
    async def plain(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        peer.close()

    async def mute(_: Peer) -> None:
        """Wait."""

    async with Hostile(plain).listening() as server, own(f"https://localhost:{server.port}/", authority.client) as sender:
        assert (await reason(sender)).startswith("TLS with localhost failed: ")
    quick = 0.2
    async with Hostile(mute).listening() as server, own(f"https://localhost:{server.port}/", authority.client, quick) as sender:
        assert (await reason(sender)).endswith("within 0.2 s")
        assert await server.peers[0].gone()


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
async def test_tls_connections_are_kept_and_tried_again_too(authority: Certificates, end: Callable[[Peer], None]) -> None:
    async with secured(authority, after(2, answering(b"", then=end)), answering(OK)) as (sender, server):
        assert [await send(sender) for _ in range(3)] == [DELIVERED] * 3
        assert (server.connections, server.requests) == (2, 4)


# A real server.


async def test_with_aiohttp_as_the_server() -> None:
    async def hook(request: web.Request) -> web.Response:
        body = await request.read()
        return web.Response(status=int(request.query["status"]), body=body[:20])

    app = web.Application(client_max_size=10_000_000)
    app.add_routes([web.post("/hook", hook)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        for client in CLIENTS.values():
            for status, wanted in ((200, DELIVERED), (202, Outcome("delivered", 202)), (410, Outcome("refused", 410))):
                async with client(f"http://127.0.0.1:{port}/hook?status={status}") as sender:
                    for size in (0, 10, 100_000, 2_000_000):
                        assert await send(sender, size) == wanted
    finally:
        await runner.cleanup()
