"""The HTTP sender against a real server; what servers do wrong is in ../test_connection.py."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from standardwebhooks.webhooks import Webhook

from services.forward.connection import Answer
from services.forward.targets import TextSender, open_sender
from services.forward.targets.http import check_answer, request_head, retry_after
from services.forward.verdict import Failed, Refused
from tas_mcp import targets
from tas_mcp.http import application, listening
from tas_mcp.messages import Event, webhook_id
from tests.services.forward.rig import OPEN

OWN_TYPE = {"headers": {"Content-Type": "application/xml"}}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def event(data: bytes = b'{"n": 1}') -> Event:
    return Event(event_id="e1", event_type="a.b", source="s", timestamp=1, accepted_at=1, data=Raw(data))


class Server:
    """Answers each POST with ``status`` and ``headers``, and keeps what came."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((request.raw_path, headers, await request.read()))
        return web.Response(status=self.status, headers=self.headers, text="sorry\n")


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    app = application([web.route("*", "/{any:.*}", server.take)], 10_000_000)
    async with listening(app, "127.0.0.1", 0, what="X") as server.port:
        yield server


async def send(server: Server, path: str = "/hook", **config: Any) -> int:
    given = {"id": "t", "type": "webhook", "endpoint": f"http://127.0.0.1:{server.port}{path}", "config": config}
    target, _ = targets.check(given)
    async with open_sender(target, OPEN) as sender:
        return await sender.send(event())


async def test_what_a_receiver_sees() -> None:
    async with serving() as server:
        server.status = 204
        status = await send(
            server, "/a%20b/é?q=1&r=ü", headers={"Authorization": "Bearer x", "X-Text": "é"}, signing_secret=SECRET
        )
        assert status == 204
        path, headers, body = server.seen[0]
        assert path == "/a%20b/%C3%A9?q=1&r=%C3%BC"
        assert json.loads(body)["data"] == '{"n": 1}'
        assert headers["host"] == f"127.0.0.1:{server.port}"
        assert headers["content-type"] == "application/json"
        assert headers["user-agent"].startswith("tas-mcp/")
        assert (headers["authorization"], headers["x-text"]) == ("Bearer x", "é")
        assert headers["webhook-id"] == webhook_id(event())
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 5
        Webhook(SECRET).verify(body, headers)


async def test_without_a_secret_there_is_no_signature_and_headers_may_be_replaced() -> None:
    async with serving() as server:
        await send(server, format="data", headers={"Content-Type": "text/x", "User-Agent": "me"})
        _, headers, body = server.seen[0]
        assert body == b'{"n": 1}'
        assert (headers["content-type"], headers["user-agent"]) == ("text/x", "me")
        assert "webhook-signature" not in headers
        assert headers["webhook-id"].startswith("evt_")


async def test_a_redirect_is_not_followed() -> None:
    async with serving() as server:
        server.status, server.headers = 302, {"Location": f"http://127.0.0.1:{server.port}/elsewhere"}
        with pytest.raises(Refused) as caught:
            await send(server)
        assert caught.value.status == 302
        assert [path for path, _, _ in server.seen] == ["/hook"]


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_later(status: int) -> None:
    async with serving() as server:
        server.status, server.headers = status, {"Retry-After": "17"}
        with pytest.raises(Failed, match=f"the target answered {status}: sorry") as caught:
            await send(server)
        assert (caught.value.status, caught.value.retry_after) == (status, 17.0)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_delivered(status: int) -> None:
    check_answer(Answer(status, "", b"whatever"))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 599])
def test_failed(status: int) -> None:
    with pytest.raises(Failed) as caught:
        check_answer(Answer(status, "", b""))
    assert (caught.value.status, caught.value.retry_after) == (status, 0.0)
    assert caught.value.detail == f"the target answered {status}"


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 410, 413, 422, 451, 499])
def test_refused(status: int) -> None:
    with pytest.raises(Refused) as caught:
        check_answer(Answer(status, "9", b"\xffno " + b"x" * 1000))
    assert caught.value.status == status
    assert caught.value.detail == f"the target answered {status}: \ufffdno " + "x" * 196


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("", 0), ("0", 0), ("120", 120), ("1.5", 0), ("-5", 0), ("soon", 0), ("³", 0), ("9" * 50, 999_999_999), ("Mon, 1", 0)],
)
def test_retry_after_in_seconds(value: str, seconds: float) -> None:
    assert retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    now = time.time()
    assert retry_after(formatdate(now + 100, usegmt=True)) == pytest.approx(100, abs=3)
    assert retry_after(formatdate(now - 100, usegmt=True)) == 0


@given(st.text(max_size=40))
def test_retry_after_takes_any_text(value: str) -> None:
    assert 0 <= retry_after(value) < float("inf")


@pytest.mark.parametrize(
    ("endpoint", "line", "host"),
    [
        ("http://a.example", "POST / HTTP/1.1", "a.example"),
        ("http://a.example:8080/x?y", "POST /x?y HTTP/1.1", "a.example:8080"),
        ("http://[::1]:80/", "POST / HTTP/1.1", "[::1]:80"),
        ("http://bücher.example/ü", "POST /%C3%BC HTTP/1.1", "xn--bcher-kva.example"),
        ("https://a.example/a%2Fb?c=%20#fragment", "POST /a%2Fb?c=%20 HTTP/1.1", "a.example"),
    ],
)
def test_the_head_of_a_request(endpoint: str, line: str, host: str) -> None:
    found = request_head(endpoint, {"X-A": "b"}).decode().split("\r\n")
    assert found == [line, f"Host: {host}", "X-A: b", ""]


async def test_the_text_of_a_template_goes_as_it_stands() -> None:
    async with serving() as server:
        given = {"id": "t", "type": "http", "endpoint": f"http://127.0.0.1:{server.port}/", "config": OWN_TYPE}
        async with open_sender(targets.check(given)[0], OPEN) as sender:
            assert isinstance(sender, TextSender)
            assert await sender.send_text(event(), "Grüße", "text/plain; charset=utf-8") == 200
            assert await sender.send_text(event(), "<x/>", None) == 200
            assert await sender.send(event()) == 200
    types = [(headers["content-type"], body) for _, headers, body in server.seen]
    assert types[:2] == [("text/plain; charset=utf-8", "Grüße".encode()), ("application/xml", b"<x/>")]
    assert types[2][0] == "application/xml"
    assert {headers["webhook-id"] for _, headers, _ in server.seen} == {webhook_id(event())}
