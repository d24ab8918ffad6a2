"""The event routes over aiohttp: every request that the express lane does not take."""

import asyncio
import time

from aiohttp import web

from services.ingest import answers, batch
from services.ingest.answers import Answer
from services.ingest.cloudevents import Binary, attributes
from services.ingest.compression import gzipped, inflated
from services.ingest.express import Express
from services.ingest.forms import ARRAY, BATCHED, BINARY, JSON, Form, form_of
from services.ingest.intake import Accepted, Counted, Intake
from services.ingest.paths import BATCH_PATH, EVENTS_PATH
from services.ingest.preferences import wait
from services.ingest.rates import Addresses
from services.ingest.settings import Settings
from services.ingest.traces import Trace
from services.ingest.waits import Waits
from tas_mcp.auth import Authentication
from tas_mcp.callers import Caller
from tas_mcp.errors import Overloaded, Rejected, TasError
from tas_mcp.http import Handler, answering, context, failure, problem_response, read_body, request_id
from tas_mcp.messages import TRACEPARENT
from tas_mcp.tls import names


def routes(
    settings: Settings,
    intake: Intake,
    auth: Authentication,
    lane: Express | None = None,
    addresses: Addresses | None = None,
    waits: Waits | None = None,
) -> list[web.RouteDef]:
    """The routes of the ingest service; ``lane`` is the express lane before them."""
    one = admitting(take_one(settings, intake, auth, waits), auth, addresses)
    many = admitting(answering(take_batch(settings, intake, auth)), auth, addresses)
    if lane is not None:
        one, many = closing(one, lane), closing(many, lane)
    return [web.post(EVENTS_PATH, one), web.post(BATCH_PATH, many)]


def admitting(handler: Handler, auth: Authentication, addresses: Addresses | None) -> Handler:
    """Wrap a handler: it sees no more requests of an address than that may send (None: there is no limit)."""
    if addresses is None:
        return handler

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            addresses.admit(auth.origin.of(request.remote or "", request.headers.items()), time.monotonic())
        except Overloaded as error:
            return problem_response(error, request_id(request))
        return await handler(request)

    return handle


def closing(handler: Handler, lane: Express) -> Handler:
    """Wrap a handler: the last request that a connection may have here closes it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = await handler(request)
        if lane.spent(request):
            answer.force_close()
        return answer

    return handle


def take_one(settings: Settings, intake: Intake, auth: Authentication, waits: Waits | None) -> Handler:
    """POST /api/v1/events. A hot path: no context, and no header that a plain accepted event does not need."""
    counted = {form.protocol: Counted(form.protocol) for form in (JSON, BINARY)}

    async def take(request: web.Request) -> web.StreamResponse:
        caller = caller_of(request, auth)
        form = asked(request, many=False)
        body = await read_event(request, settings.body_seconds, settings.max_event_bytes, form)
        given = binary(request, body) if form is BINARY else body
        trace = intake.trace(counted[form.protocol], request.headers.get(TRACEPARENT, ""))

        async def stored(inbox: str = "") -> Accepted | TasError:
            future: asyncio.Future[Accepted | TasError] = asyncio.get_running_loop().create_future()

            def settle(answer: Accepted | TasError) -> None:
                if not future.done():  # done: the request was cancelled
                    future.set_result(answer)

            intake.submit(given, len(body), form.read, caller, counted[form.protocol], settle, inbox, trace)
            return await future

        seconds = wait(request.headers.getall("Prefer", ()))
        if waits is None or not seconds:
            return response(settled(await stored(), request), trace)
        with waits.opened() as opened:
            answer = await stored(opened.inbox if opened else "")
            if opened is None or not isinstance(answer, Accepted) or answer.duplicate is True:
                return response(settled(answer, request), trace)
            await opened.over(seconds)
            return response(answers.waited(answer, opened), trace)

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await take(request)
        except Exception as error:  # noqa: BLE001  (an edge: see tas_mcp.http.answering, whose context costs too much before)
            with context(request):
                return failure(error, request, request_id(request))

    return handle


def take_batch(settings: Settings, intake: Intake, auth: Authentication) -> Handler:
    """POST /api/v1/events/batch."""
    counted = {form.protocol: Counted(form.protocol) for form in (ARRAY, BATCHED)}

    async def handle(request: web.Request) -> web.StreamResponse:
        caller = caller_of(request, auth)
        caller.require("events:write")
        form = asked(request, many=True)
        body = await read_event(request, settings.body_seconds, settings.max_batch_bytes, form)
        assert form.split is not None  # noqa: S101  (many)
        entries = form.split(body, settings.max_batch_bytes, settings.max_batch_events)
        found = await batch.submit(
            entries, intake, caller, counted[form.protocol], form.read, request.headers.get(TRACEPARENT, "")
        )
        return response(answers.batch(found, request_id(request)))

    return handle


def caller_of(request: web.Request, auth: Authentication) -> Caller:
    """Who sends a request. Raises as ``Authentication.caller``."""
    headers = request.headers.items()
    return auth.caller(headers, auth.origin.of(request.remote or "", headers), names(request.transport))


def settled(answer: Accepted | TasError, request: web.Request) -> Answer:
    return answers.one(answer, request_id(request) if isinstance(answer, TasError) else "")


def response(answer: Answer, trace: Trace | None = None) -> web.Response:
    headers = {"Content-Type": answer.content_type, **answer.headers}
    if trace is not None:
        headers[TRACEPARENT] = trace.traceparent
    return web.Response(status=answer.status, headers=headers, body=answer.body)


def asked(request: web.Request, *, many: bool) -> Form:
    """The form of a request, by its headers.

    Raises:
        Rejected: ``UNSUPPORTED_MEDIA_TYPE``.
    """
    headers = request.headers
    attributed = any(name[:3].lower() == "ce-" for name in headers)
    foreign = headers.get("Sec-Fetch-Site") == "cross-site"
    return form_of(headers.get("Content-Type", ""), many=many, attributed=attributed, foreign=foreign)


def binary(request: web.Request, body: bytes) -> Binary:
    """A request in the binary mode of CloudEvents.

    Raises:
        Rejected: an attribute is wrong.
    """
    content_type = next((value for name, value in request.raw_headers if name.lower() == b"content-type"), b"")
    return Binary(attributes(request.raw_headers), content_type, body)


async def read_event(request: web.Request, seconds: float, limit: int, form: Form) -> bytes:
    """The body: see ``tas_mcp.http.read_body``; one that came as gzip may have ``limit`` bytes when it is unpacked.

    Raises:
        Rejected: ``INVALID_EVENT``: it is empty (only in the binary mode may an event be without data), or broken;
            ``UNSUPPORTED_ENCODING``; ``TOO_LARGE``.
    """
    packed = gzipped(",".join(request.headers.getall("Content-Encoding", ())))
    body = await read_body(request, seconds, "the body is larger than the limit for a batch")
    if packed:
        body = await unpacked(body, limit)
    if not body and form is not BINARY:
        raise Rejected("INVALID_EVENT", "the body is empty: send one event as JSON")
    return body


async def unpacked(body: bytes, limit: int) -> bytes:
    """A gzip body, unpacked while others get their turns. Raises as ``inflated`` does."""
    pieces = []
    for piece in inflated(body, limit):
        pieces.append(piece)
        await asyncio.sleep(0)
    return b"".join(pieces)
