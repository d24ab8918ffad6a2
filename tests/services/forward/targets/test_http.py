"""The HTTP sender against a real server; what servers do wrong is in ../test_connection.py."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from aiohttp import web
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from msgspec import Raw
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from services.forward.targets import CheckedSender, Sender, TextSender, open_sender
from services.forward.verdict import Failed, Gone, Refused
from tas_mcp import targets
from tas_mcp.errors import Rejected
from tas_mcp.http import application, listening
from tas_mcp.messages import Event, webhook_id
from tests.certificates import Authority, Pair
from tests.services.forward.rig import OPEN
from tests.services.forward.token_endpoint import TokenEndpoint, issuing

OWN_TYPE = {"headers": {"Content-Type": "application/xml"}}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def event(data: bytes = b'{"n": 1}') -> Event:
    return Event(event_id="e1", event_type="a.b", source="s", timestamp=1, accepted_at=1, data=Raw(data))


class Server:
    """Answers each request with ``status`` and ``headers``, and keeps what came. Of the bearer tokens of ``revoked`` it takes
    none."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.methods: list[str] = []
        self.revoked: set[str] = set()
        self.status = 200
        self.headers: dict[str, str] = {}
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((request.raw_path, headers, await request.read()))
        self.methods.append(request.method)
        if headers.get("authorization", "").removeprefix("Bearer ") in self.revoked:
            return web.Response(status=401, text="revoked")
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


@asynccontextmanager
async def opened(server: Server, **config: Any) -> AsyncIterator[Sender]:
    given = {"id": "t", "type": "http", "endpoint": f"http://127.0.0.1:{server.port}/", "config": config}
    async with open_sender(targets.check(given)[0], OPEN) as sender:
        yield sender


def oauth2(endpoint: TokenEndpoint) -> dict[str, str]:
    url = f"http://127.0.0.1:{endpoint.port}/token"
    return {"type": "oauth2", "token_url": url, "client_id": "me", "client_secret": "s"}


def context_of(authority: Authority, pair: Pair, verify: ssl.VerifyMode = ssl.CERT_NONE) -> ssl.SSLContext:
    """A server's, which asks its clients for a certificate where it is to ``verify`` them."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=authority.certificate)
    context.verify_mode = verify
    with NamedTemporaryFile() as file:
        file.write(f"{pair.certificate}\n{pair.key}".encode())
        file.flush()
        context.load_cert_chain(file.name)
    return context


@asynccontextmanager
async def secured(authority: Authority, pair: Pair) -> AsyncIterator[int]:
    """A server that takes deliveries of those whom the authority knows; its port."""

    async def take(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/", take)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context_of(authority, pair, ssl.CERT_REQUIRED)).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


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
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
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


# What a document may ask for.


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS", "PURGE"])
async def test_any_method(method: str) -> None:
    async with serving() as server:
        for _ in range(2):
            assert await send(server, method=method) == 200
        assert server.methods == [method, method]
        assert server.seen[0][2] == server.seen[1][2] != b""


async def test_a_query_is_added() -> None:
    async with serving() as server:
        await send(
            server, "/hook?a=1", query={"b": "x y"}, authentication={"type": "api_key", "in": "query", "name": "k", "key": "s&"}
        )
        assert server.seen[0][0] == "/hook?a=1&b=x%20y&k=s%26"


@pytest.mark.parametrize(
    ("config", "content_type", "body"),
    [
        ({"format": "data"}, "application/json", b'{"n": 1}'),
        ({"format": "standard"}, "application/json", b'{"type":"a.b","timestamp":"1970-01-01T00:00:01Z","data":{"n": 1}}'),
        ({"format": "cloudevents-binary"}, "application/json", b'{"n": 1}'),
        ({"format": "cloudevents", "headers": {"content-type": "text/x"}}, "text/x", None),
        ({"format": "cloudevents"}, "application/cloudevents+json", None),
    ],
)
async def test_formats(config: dict[str, Any], content_type: str, body: bytes | None) -> None:
    async with serving() as server:
        await send(server, **config)
        _, headers, got = server.seen[0]
        assert headers["content-type"] == content_type
        assert body is None or got == body


@pytest.mark.parametrize("form", ["cloudevents", "cloudevents-binary"])
async def test_the_reference_sdk_reads_a_delivery(form: str) -> None:
    async with serving() as server:
        await send(server, format=form)
        _, headers, body = server.seen[0]
        found = from_http_event(HTTPMessage(headers=headers, body=body))
        assert (found.get_id(), found.get_source(), found.get_type()) == ("e1", "s", "a.b")
        assert found.get_data() == {"n": 1}
        assert ("ce-id" in headers) == (form == "cloudevents-binary")


@pytest.mark.parametrize(
    ("authentication", "name", "value"),
    [
        ({"type": "bearer", "token": "abc"}, "authorization", "Bearer abc"),
        ({"type": "basic", "username": "me", "password": "pä:ss"}, "authorization", "Basic bWU6cMOkOnNz"),
        ({"type": "api_key", "key": "abc"}, "x-api-key", "abc"),
        ({"type": "api_key", "name": "X-Key", "key": "abc"}, "x-key", "abc"),
        ({"type": "none"}, "authorization", None),
    ],
)
async def test_authentication(authentication: dict[str, str], name: str, value: str | None) -> None:
    async with serving() as server:
        await send(server, authentication=authentication)
        assert server.seen[0][1].get(name) == value


async def test_a_token_goes_with_each_delivery_and_one_that_was_revoked_is_exchanged_once() -> None:
    async with serving() as server, issuing() as endpoint, opened(server, authentication=oauth2(endpoint)) as sender:
        assert [await sender.send(event()) for _ in range(2)] == [200, 200]
        server.revoked.add("t1")
        assert await sender.send(event()) == 200
        assert [headers["authorization"] for _, headers, _ in server.seen] == [
            *["Bearer t1"] * 3,
            "Bearer t2",
        ]
        assert {headers["webhook-id"] for _, headers, _ in server.seen} == {webhook_id(event())}
        server.revoked |= {"t2", "t3"}
        with pytest.raises(Refused, match="answered 401: revoked"):
            await sender.send(event())
        assert (len(endpoint.seen), len(server.seen)) == (3, 6)


async def test_without_a_token_nothing_is_sent() -> None:
    async with serving() as server, issuing() as endpoint, opened(server, authentication=oauth2(endpoint)) as sender:
        endpoint.status = 500
        with pytest.raises(Failed, match="no token from"):
            await sender.send(event())
        assert server.seen == []


async def test_every_signature_of_a_rotation_is_sent() -> None:
    other = "whsec_" + "QUJD" * 11
    async with serving() as server:
        await send(server, signing_secret=[other, SECRET])
        _, headers, body = server.seen[0]
        for secret in (other, SECRET):
            Webhook(secret).verify(body, headers)
            with pytest.raises(WebhookVerificationError):
                Webhook(secret).verify(body + b" ", headers)


@pytest.mark.parametrize(("status", "verdict"), [(409, Failed), (404, Refused), (410, Gone), (302, Failed)])
async def test_what_is_tried_again_may_be_chosen_and_what_it_said_is_kept(status: int, verdict: type[Exception]) -> None:
    async with serving() as server:
        server.status = status
        with pytest.raises(verdict) as caught:
            await send(server, retry={"on": [409, "3xx"]})
        assert caught.type is verdict
        assert caught.value.response == "sorry\n"  # type: ignore[attr-defined]


# TLS.


async def test_an_authority_of_its_own_and_a_certificate_for_the_client() -> None:
    authority, stranger = Authority(), Authority()
    pair = authority.issue()
    ours, theirs = authority.issue("client"), stranger.issue("client")
    async with secured(authority, pair) as port:

        async def deliver(ca: str, client: Pair | None) -> int:
            tls = {"ca": ca, **({"certificate": client.certificate, "key": client.key} if client else {})}
            given = {"id": "t", "type": "http", "endpoint": f"https://localhost:{port}/", "config": {"tls": tls}}
            async with open_sender(targets.check(given)[0], OPEN) as sender:
                return await sender.send(event())

        assert await deliver(authority.certificate, ours) == 200
        for ca, client in (
            (authority.certificate, theirs),
            (authority.certificate, None),
            (stranger.certificate, ours),
            ("", ours),
        ):
            with pytest.raises(Failed):
                await deliver(ca, client)


@asynccontextmanager
async def handshaking(context: ssl.SSLContext) -> AsyncIterator[tuple[int, list[str | None]]]:
    """A server that says yes to whoever gets through the handshake; its port, and the versions that were agreed on."""
    versions: list[str | None] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        versions.append(writer.get_extra_info("ssl_object").version())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], versions


async def sent_over(port: int, **tls: str) -> int:
    given = {"id": "t", "type": "http", "endpoint": f"https://localhost:{port}/", "config": {"tls": tls}}
    async with open_sender(targets.check(given)[0], OPEN) as sender:
        return await sender.send(event())


async def test_the_certificate_may_have_to_bear_another_name_than_the_endpoint() -> None:
    authority = Authority()
    context = context_of(authority, authority.issue(address="192.0.2.1", host="ledger.internal"))
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with handshaking(context) as (port, _):
        assert await sent_over(port, ca=authority.certificate, server_name="ledger.internal") == 200
        for name in ("", "other.internal"):
            with pytest.raises(Failed, match="certificate"):
                await sent_over(port, ca=authority.certificate, server_name=name)
    assert asked == ["ledger.internal", "localhost", "other.internal"]


async def test_the_oldest_version_of_tls_is_chosen() -> None:
    authority = Authority()
    context = context_of(authority, authority.issue())
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with handshaking(context) as (port, versions):
        assert await sent_over(port, ca=authority.certificate) == 200
        with pytest.raises(Failed):
            await sent_over(port, ca=authority.certificate, min_version="1.3")
        assert versions == ["TLSv1.2"]
        context.maximum_version = ssl.TLSVersion.TLSv1_3
        assert await sent_over(port, ca=authority.certificate, min_version="1.3") == 200
    assert versions == ["TLSv1.2", "TLSv1.3"]


async def test_a_key_of_another_certificate_is_refused_when_it_is_opened() -> None:
    authority = Authority()
    tls = {"certificate": authority.issue().certificate, "key": authority.issue().key}
    given = {"id": "t", "type": "http", "endpoint": "https://localhost/", "config": {"tls": tls}}
    with pytest.raises(Rejected, match=r"config\.tls cannot be used"):
        async with open_sender(targets.check(given)[0], OPEN):
            pass


async def test_tokens_come_from_an_endpoint_of_the_same_authority() -> None:
    authority = Authority()
    pair = authority.issue()
    async with issuing(context_of(authority, pair)) as endpoint, secured(authority, pair) as port:
        client = authority.issue("client")
        tls = {"ca": authority.certificate, "certificate": client.certificate, "key": client.key}
        authentication = {**oauth2(endpoint), "token_url": f"https://localhost:{endpoint.port}/token"}
        config = {"tls": tls, "authentication": authentication}
        given = {"id": "t", "type": "http", "endpoint": f"https://localhost:{port}/", "config": config}
        async with open_sender(targets.check(given)[0], OPEN) as sender:
            assert await sender.send(event()) == 200


async def test_a_health_check_is_a_get_of_its_path_with_the_credentials_of_deliveries() -> None:
    config = {
        "health_check": {"path": "/healthz?full=1"},
        "headers": {"X-Team": "blue"},
        "authentication": {"type": "bearer", "token": "t0ken"},
    }
    async with serving() as server, opened(server, **config) as sender:
        assert isinstance(sender, CheckedSender)
        await sender.check()
        path, headers, body = server.seen[0]
        assert (server.methods, path, body) == (["GET"], "/healthz?full=1", b"")
        assert (headers["x-team"], headers["authorization"]) == ("blue", "Bearer t0ken")


@pytest.mark.parametrize("status", [302, 404, 410, 429, 503])
async def test_a_health_check_with_another_answer_than_2xx_failed(status: int) -> None:
    async with serving() as server, opened(server, health_check={"path": "/healthz"}) as sender:
        server.status = status
        assert isinstance(sender, CheckedSender)
        with pytest.raises(Failed) as caught:
            await sender.check()
        assert caught.value.status == status
