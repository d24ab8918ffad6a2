"""What every HTTP edge of ours does alike: listening, request ids, and errors as RFC 9457 problems.

``STATUS`` is the one table from an error's code to its HTTP status. Handlers raise ``tas_mcp.errors``; ``answering`` wraps a
handler and turns what it raises into a problem, so that no answer is ever plain text or a bare 500.
"""

import asyncio
import math
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from http import HTTPStatus
from typing import Protocol

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from tas_mcp import telemetry
from tas_mcp.errors import Flaw, Misconfigured, Overloaded, Rejected, TasError, Unavailable
from tas_mcp.http_protocol import protocols
from tas_mcp.messages import TRACEPARENT
from tas_mcp.ports import refusal
from tas_mcp.settings import IDLE_SECONDS
from tas_mcp.tracing import trace_id

log = telemetry.logger("http")

ProtocolFactory = Callable[[], asyncio.Protocol]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Drain = Callable[[], Awaitable[None]]
"""Ends, in good order, what would not end by itself: streams, WebSockets."""

STATUS = {
    "INVALID_EVENT": 400,
    "INVALID_REQUEST": 400,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "TIMEOUT": 408,
    "CONFLICT": 409,
    "READ_ONLY": 409,
    "STALE_REVISION": 409,
    "PRECONDITION_FAILED": 412,
    "EVENT_TOO_LARGE": 413,
    "BATCH_TOO_LARGE": 413,
    "TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "UNSUPPORTED_ENCODING": 415,
    "INVALID_TARGET": 422,
    "INVALID_KEY": 422,
    "INVALID_RULES": 422,
    "INVALID_SCHEMA": 422,
    "SCHEMA_VIOLATION": 422,
}
PROBLEM_JSON = "application/problem+json"
CHALLENGE = 'Bearer realm="tas-mcp"'

HANDSHAKE_SECONDS = 5.0
"""How long a TLS handshake may take."""
FAREWELL_SECONDS = 2.0
"""How long the other side may take to end TLS in good order, before its connection is cut."""

BACKLOG = 1024

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z").match
_GIVEN_ID = web.RequestKey("request_id", str)
_encode = msgspec.json.Encoder().encode


class InvalidMember(Struct):
    """One thing that is wrong with a request: where (an RFC 6901 JSON pointer), and what."""

    pointer: str
    detail: str


class Problem(Struct, kw_only=True):
    """An RFC 9457 problem with our members ``code``, ``request_id`` and ``errors``."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    request_id: str | UnsetType = UNSET
    errors: list[InvalidMember] | UnsetType = UNSET


def problem(error: TasError, request_id: str = "") -> Problem:
    """The problem that an error is shown as."""
    match error:
        case Rejected():
            status, code = STATUS.get(error.code, 400), error.code
        case Overloaded():
            status, code = 429, "RATE_LIMITED"
        case Unavailable():
            status, code = 503, "UNAVAILABLE"
        case _:
            status, code = 500, "INTERNAL"
    flaws: Sequence[Flaw] = error.flaws if isinstance(error, Rejected) else ()
    return Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=error.detail,
        code=code,
        request_id=request_id or UNSET,
        errors=[InvalidMember(flaw.pointer, flaw.detail) for flaw in flaws] or UNSET,
    )


def problem_headers(error: TasError, request_id: str) -> dict[str, str]:
    """The headers that go with a problem; 401 says what to come with, 415 which compression is taken; 429 and 503 always say when
    to come back, 429 also which limit was reached (draft-ietf-httpapi-ratelimit-headers-10)."""
    headers = {"X-Request-Id": request_id}
    if isinstance(error, Rejected) and error.code == "UNAUTHORIZED":
        headers["WWW-Authenticate"] = CHALLENGE
    if isinstance(error, Rejected) and error.code == "UNSUPPORTED_ENCODING":
        headers["Accept-Encoding"] = "gzip"
    if isinstance(error, Overloaded | Unavailable):
        seconds = max(1, math.ceil(error.retry_after))
        headers["Retry-After"] = str(seconds)
        if isinstance(error, Overloaded) and (quota := error.quota):
            headers["RateLimit-Policy"] = f'"{quota.name}";q={quota.amount};w={quota.seconds};qu="{quota.unit}"'
            headers["RateLimit"] = f'"{quota.name}";r=0;t={seconds}'
    return headers


def problem_response(error: TasError, request_id: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """The answer for an error."""
    shown = problem(error, request_id)
    extra = {"Content-Type": PROBLEM_JSON, **problem_headers(error, request_id), **(headers or {})}
    return web.Response(status=shown.status, body=_encode(shown), headers=extra)


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=_encode(value), content_type="application/json", headers=headers)


def fit_request_id(given: str) -> str:
    """What a caller gave as ``X-Request-Id`` where it is fit to be shown and logged, else a new one."""
    return given if _REQUEST_ID(given) else "req_" + secrets.token_hex(8)


def request_id(request: web.Request) -> str:
    """The id of a request: see ``fit_request_id``. It keeps the one that it is given here."""
    found = request.get(_GIVEN_ID)
    if found is None:
        found = request[_GIVEN_ID] = fit_request_id(request.headers.get("X-Request-Id", ""))
    return found


async def read_body(request: web.Request, seconds: float, too_large: str) -> bytes:
    """The whole body, within a deadline; ``too_large`` is said of one that the server does not take.

    Raises:
        Rejected: ``TIMEOUT``, ``TOO_LARGE``, ``INVALID_REQUEST`` (the client left).
    """
    if (request.content_length or 0) > request.client_max_size:  # told before it is sent
        raise Rejected("TOO_LARGE", too_large)
    try:
        if request.content.is_eof():
            return await request.read()
        async with asyncio.timeout(seconds):
            return await request.read()
    except TimeoutError:
        raise Rejected("TIMEOUT", f"the body did not arrive within {seconds:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise Rejected("TOO_LARGE", too_large) from None
    except ConnectionError:
        raise Rejected("INVALID_REQUEST", "the client left before its body was whole") from None


def context(request: web.Request) -> AbstractContextManager[None]:
    """Everything that is logged inside carries the ids of the request: its own, its correlation's, its trace's."""
    correlation = request.headers.get("X-Correlation-Id", "")
    return telemetry.context(
        request_id=request_id(request),
        correlation_id=correlation if _REQUEST_ID(correlation) else "",
        trace_id=trace_id(request.headers.get(TRACEPARENT, "")),
    )


def answering(handler: Handler) -> Handler:
    """Wrap a handler: errors become problems, and everything it logs carries the request's ids."""

    async def answer(request: web.Request) -> web.StreamResponse:
        with context(request):
            try:
                return await handler(request)
            except Exception as error:  # noqa: BLE001  (this is the edge: every error becomes an answer)
                return failure(error, request, request_id(request))

    return answer


def failure(error: Exception, request: web.Request, rid: str) -> web.Response:
    """The answer for whatever a handler raised; what nobody expected is logged."""
    if isinstance(error, TasError):
        return problem_response(error, rid)
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return problem_response(Rejected("TOO_LARGE", "the body is larger than this route takes"), rid)
    if isinstance(error, web.RequestPayloadError | ValueError | RecursionError):
        log.warning("request cannot be read", path=request.path, error=repr(error))
        return problem_response(Rejected("INVALID_REQUEST", f"the request cannot be read: {error}"), rid)
    log.error("request failed", method=request.method, path=request.path, exc_info=error)
    return problem_response(TasError(f"internal error ({type(error).__name__}): see the log for this request_id"), rid)


def application(routes: Sequence[web.RouteDef], max_body: int, drains: Sequence[Drain] = ()) -> web.Application:
    """An application of ``routes``; what none of them takes is answered with a problem (404, or 405 with ``Allow``). ``drains``
    are called when it stops, before what is in flight is waited for."""
    app = web.Application(client_max_size=max_body)
    app.add_routes(routes)

    async def end(_: web.Application) -> None:
        await asyncio.gather(*(drain() for drain in drains))

    app.on_shutdown.append(end)
    allowed: dict[str, set[str]] = {}
    for route in app.router.routes():
        if route.resource:
            allowed.setdefault(route.resource.canonical, set()).add(route.method)

    async def nothing(request: web.Request) -> web.StreamResponse:
        for resource in app.router.resources():
            match, methods = await resource.resolve(request)
            if match is None and methods and resource.canonical in allowed:
                detail = f"{request.path} does not take {request.method}"
                allow = {"Allow": ", ".join(sorted(methods))}
                return problem_response(Rejected("METHOD_NOT_ALLOWED", detail), request_id(request), allow)
        raise Rejected("NOT_FOUND", f"there is nothing at {request.path}")

    app.router.add_route("*", "/{nothing:.*}", answering(nothing))
    return app


class Front(Protocol):
    """What may sit before aiohttp on a listening port: it makes the protocols of new connections, and may hand one on."""

    def attach(self, factory: ProtocolFactory) -> ProtocolFactory:
        """The factory to listen with; connections that it does not keep go to protocols of ``factory``."""
        ...

    async def drain(self) -> None:
        """Finish what is in flight and close; no new connections come any more. When cancelled, cut what is left."""
        ...


class _Site(web.BaseSite):
    """A listening socket, with or without a front."""

    def __init__(
        self,
        runner: web.AppRunner,
        host: str,
        port: int,
        *,
        reuse_port: bool,
        drain_seconds: float,
        front: Front | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(runner, ssl_context=tls)
        self._address = host, port
        self._reuse_port = reuse_port
        self._drain_seconds = drain_seconds
        self._front = front

    @property
    def name(self) -> str:
        return ("https" if self._ssl_context else "http") + "://{}:{}".format(*self._address)

    async def start(self) -> None:
        await super().start()
        server = self._runner.server
        assert server is not None  # noqa: S101  (BaseSite made sure)
        factory = protocols(server, lambda error: problem_response(error, fit_request_id("")))
        self._server = await asyncio.get_running_loop().create_server(
            self._front.attach(factory) if self._front else factory,
            *self._address,
            ssl=self._ssl_context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if self._ssl_context else None,
            ssl_shutdown_timeout=FAREWELL_SECONDS if self._ssl_context else None,
            backlog=BACKLOG,
            reuse_port=self._reuse_port or None,
        )

    async def stop(self) -> None:
        await super().stop()
        if self._front:
            try:
                async with asyncio.timeout(self._drain_seconds):
                    await self._front.drain()
            except TimeoutError:
                log.warning("connections were cut: they took too long to drain", seconds=self._drain_seconds)


@asynccontextmanager
async def listening(
    app: web.Application,
    host: str,
    port: int,
    *,
    what: str,
    reuse_port: bool = False,
    drain_seconds: float = 10.0,
    idle_seconds: float = IDLE_SECONDS,
    front: Front | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Serve ``app`` while inside; yields the port (which the system chose if ``port`` is 0). Leaving refuses new connections,
    answers what is in flight (at most ``drain_seconds``), then closes. With ``tls`` it speaks HTTPS. A connection may be
    idle, or take to send the head of a request, for ``idle_seconds``.

    Raises:
        Misconfigured: the address cannot be used; the text names the setting (``what``).
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=idle_seconds,
        shutdown_timeout=drain_seconds,
        auto_decompress=False,
    )
    await runner.setup()
    try:
        try:
            site = _Site(runner, host, port, reuse_port=reuse_port, drain_seconds=drain_seconds, front=front, tls=tls)
            await site.start()
        except OSError as error:
            raise Misconfigured(refusal(host, port, what, error)) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
