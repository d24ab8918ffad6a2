"""Target types ``http`` and ``webhook``: one request a delivery, over kept connections."""

import time
from base64 import b64encode
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urljoin

from services.forward.answers import check_answer, statuses
from services.forward.cloudevents import STRUCTURED, data_type, header_lines
from services.forward.connection import Answer, Endpoint, Pool
from services.forward.formats import FORMATS
from services.forward.guard import Guard
from services.forward.oauth import Tokens, open_tokens
from services.forward.requests import request_head
from services.forward.tls import client_context
from services.forward.verdict import Failed, Refused
from tas_mcp import __version__
from tas_mcp.messages import Event, webhook_id
from tas_mcp.signature import signing
from tas_mcp.targets import ApiKey, Authentication, Basic, Bearer, HttpTarget, OAuth2

AGENT = f"tas-mcp/{__version__}"
JSON = "application/json"
CONNECT_SECONDS = 10.0
UNAUTHORIZED = 401


@asynccontextmanager
async def open_http(target: HttpTarget, guard: Guard) -> AsyncIterator["Http"]:
    """Open the connections' pool of one target, and that of its tokens where it needs some.

    Raises:
        Rejected: its certificates cannot be used.
    """
    config = target.delivery
    tls = client_context(config.tls) if target.endpoint.startswith("https:") else None
    connect_seconds = min(CONNECT_SECONDS, config.timeout)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(Pool(Endpoint.of(target.endpoint, tls), connect_seconds, guard).running())
        tokens = None
        if isinstance(config.authentication, OAuth2):
            ca = config.tls.ca if config.tls else ""
            tokens = await stack.enter_async_context(open_tokens(config.authentication, ca, guard, connect_seconds))
        yield Http(target, pool, tokens)


class Http:
    """Sends to one endpoint."""

    def __init__(self, target: HttpTarget, pool: Pool, tokens: Tokens | None = None) -> None:
        config = target.delivery
        headers, query = credentials(config.authentication)
        given = {name: value for name, value in config.headers.items() if name.lower() != "content-type"}
        agent = {} if "user-agent" in map(str.lower, given) else {"User-Agent": AGENT}
        self._head = request_head(config.method, target.endpoint, {**agent, **given, **headers}, {**config.query, **query})
        own = next((value for name, value in config.headers.items() if name.lower() == "content-type"), None)
        self._type = own or (STRUCTURED if config.format == "cloudevents" else JSON)
        self._text_type = own or JSON
        self._bare = own is None and config.format in ("cloudevents-binary", "data")
        self._body = FORMATS[config.format]
        self._binary = config.format == "cloudevents-binary"
        self._sign = signing(config.signing_secrets) if config.signing_secrets else None
        self._retryable = statuses(config.retry.on)
        self._check_head = b""
        if config.health_check is not None:
            url = urljoin(target.endpoint, config.health_check.path)
            self._check_head = request_head("GET", url, {**agent, **given, **headers}, query)
        self._pool = pool
        self._tokens = tokens

    def send(self, event: Event, trace: str = "") -> Coroutine[Any, Any, int]:
        content_type = data_type(event) if self._bare and event.cloudevent else self._type
        return self._deliver(event, content_type, self._body(event), trace)

    def send_text(self, event: Event, text: str, content_type: str | None, trace: str = "") -> Coroutine[Any, Any, int]:
        return self._deliver(event, content_type or self._text_type, text.encode(), trace)

    async def check(self) -> None:
        try:
            answer = await self._request(self._check_head, b"\r\n")
        except Refused as refused:
            raise Failed(refused.status, refused.detail) from None
        if not 200 <= answer.status < 300:
            raise Failed(answer.status, f"the health check was answered with {answer.status}")

    async def _deliver(self, event: Event, content_type: str, body: bytes, trace: str) -> int:
        sent_at = int(time.time())
        wid = webhook_id(event)
        signature = f"webhook-signature: {self._sign(wid, sent_at, body)}\r\n" if self._sign else ""
        attributes = header_lines(event) if self._binary else ""
        traced = f"traceparent: {trace}\r\n" if trace else ""
        own = (
            f"Content-Type: {content_type}\r\nwebhook-id: {wid}\r\nwebhook-timestamp: {sent_at}\r\n{signature}{attributes}"
            f"{traced}Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        answer = await self._request(self._head, own, body)
        check_answer(answer, self._retryable)
        return answer.status

    def _request(self, head: bytes, own: bytes, body: bytes = b"") -> Coroutine[Any, Any, Answer]:
        if self._tokens is None:
            return self._pool.request(b"%s%s%s" % (head, own, body))
        return self._authorized(self._tokens, head, own + body)

    async def _authorized(self, tokens: Tokens, head: bytes, rest: bytes) -> Answer:
        """Send with a token; once more with a new one if the target does not take it, as it may have been revoked."""
        token = await tokens.get()
        answer = await self._pool.request(b"%sAuthorization: Bearer %s\r\n%s" % (head, token.encode(), rest))
        if answer.status != UNAUTHORIZED:
            return answer
        tokens.drop(token)
        token = await tokens.get()
        return await self._pool.request(b"%sAuthorization: Bearer %s\r\n%s" % (head, token.encode(), rest))


def credentials(given: Authentication | None) -> tuple[dict[str, str], dict[str, str]]:
    """The headers and the query parameters that do not change."""
    match given:
        case Bearer(token=token):
            return {"Authorization": f"Bearer {token}"}, {}
        case Basic(username=username, password=password):
            return {"Authorization": "Basic " + b64encode(f"{username}:{password}".encode()).decode()}, {}
        case ApiKey(name=name, key=key, place="header"):
            return {name: key}, {}
        case ApiKey(name=name, key=key):
            return {}, {name: key}
    return {}, {}
