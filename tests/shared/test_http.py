"""The HTTP edge: every answer of it over a real port, every error a problem."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web
from multidict import CIMultiDictProxy

from tas_mcp.errors import Flaw, Misconfigured, Overloaded, Quota, Rejected, TasError, Unavailable
from tas_mcp.http import STATUS, answering, application, fit_request_id, json_response, listening, problem

MADE_ID = re.compile(r"req_[0-9a-f]{16}").fullmatch


@asynccontextmanager
async def served(*routes: web.RouteDef, max_body: int = 1000) -> AsyncIterator[aiohttp.ClientSession]:
    async with listening(application(routes, max_body), "127.0.0.1", 0, what="TAS_HTTP_PORT") as port:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield session


def raising(error: Exception) -> web.RouteDef:
    async def handle(_: web.Request) -> web.StreamResponse:
        raise error

    return web.get("/x", answering(handle))


async def answered(error: Exception, **headers: str) -> tuple[int, dict[str, Any], CIMultiDictProxy[str]]:
    async with served(raising(error)) as session, session.get("/x", headers=headers) as answer:
        assert answer.content_type == "application/problem+json"
        return answer.status, json.loads(await answer.text()), answer.headers


async def test_the_shape_of_a_problem() -> None:
    error = Rejected("INVALID_EVENT", "two things", [Flaw("/a", "no"), Flaw("/b/0", "neither")])
    status, body, headers = await answered(error, **{"X-Request-Id": "mine-1"})
    assert status == 400
    assert headers["X-Request-Id"] == "mine-1"
    assert "Retry-After" not in headers
    assert body == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "two things",
        "code": "INVALID_EVENT",
        "request_id": "mine-1",
        "errors": [{"pointer": "/a", "detail": "no"}, {"pointer": "/b/0", "detail": "neither"}],
    }


async def test_a_problem_without_flaws_has_no_errors_member() -> None:
    _, body, _ = await answered(Rejected("NOT_FOUND", "no"))
    assert "errors" not in body


@pytest.mark.parametrize(("code", "status"), [*STATUS.items(), ("SOMETHING_NEW", 400)])
def test_each_code_has_its_status(code: str, status: int) -> None:
    shown = problem(Rejected(code, "x"))
    assert (shown.status, shown.code) == (status, code)


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (Overloaded("slow down", 7.4), 429, "RATE_LIMITED", "8"),
        (Overloaded("slow down", 0.01), 429, "RATE_LIMITED", "1"),
        (Unavailable("away"), 503, "UNAVAILABLE", "1"),
        (Unavailable("full", 5.0), 503, "UNAVAILABLE", "5"),
    ],
)
async def test_later_says_when(error: TasError, status: int, code: str, retry_after: str) -> None:
    found, body, headers = await answered(error)
    assert (found, body["code"], headers["Retry-After"]) == (status, code, retry_after)


async def test_a_limit_with_a_name_is_told() -> None:
    _, _, headers = await answered(Overloaded("slow down", 7.4, Quota("caller-events", "events", 100, 10)))
    assert headers["RateLimit-Policy"] == '"caller-events";q=100;w=10;qu="events"'
    assert headers["RateLimit"] == '"caller-events";r=0;t=8'


async def test_what_nobody_expected_is_500_and_tells_nothing_inside() -> None:
    with structlog.testing.capture_logs() as logged:
        status, body, headers = await answered(KeyError("the secret"))
    assert (status, body["code"]) == (500, "INTERNAL")
    assert "the secret" not in json.dumps(body)
    assert body["request_id"] == headers["X-Request-Id"]
    assert isinstance(logged[0]["exc_info"], KeyError)


@pytest.mark.parametrize("error", [ValueError("bad"), UnicodeDecodeError("utf-8", b"x", 0, 1, "no"), RecursionError()])
async def test_what_cannot_be_read_is_400(error: Exception) -> None:
    status, body, _ = await answered(error)
    assert (status, body["code"]) == (400, "INVALID_REQUEST")


async def test_a_body_over_the_limit_is_413() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        return json_response({})

    async with served(web.post("/x", answering(handle)), max_body=10) as session:
        async with session.post("/x", data=b"x" * 10) as answer:
            assert answer.status == 200
        async with session.post("/x", data=b"x" * 11) as answer:
            assert (answer.status, (await answer.json(content_type=None))["code"]) == (413, "TOO_LARGE")


async def test_unknown_path_and_method() -> None:
    async def handle(_: web.Request) -> web.StreamResponse:
        return json_response({})

    routes = [web.get("/a/{id}", handle), web.put("/a/{id}", handle), web.post("/b", handle)]
    async with served(*routes) as session:
        async with session.get("/nothing", headers={"X-Request-Id": "r1"}) as answer:
            body = await answer.json(content_type=None)
            assert (answer.status, body["code"], body["request_id"]) == (404, "NOT_FOUND", "r1")
            assert "Allow" not in answer.headers
        async with session.post("/a/5") as answer:
            body = await answer.json(content_type=None)
            assert (answer.status, body["code"]) == (405, "METHOD_NOT_ALLOWED")
            assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "PUT"}
        async with session.get("/b") as answer:
            assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize("given", ["a", "A-1.b_c", "x" * 64])
def test_a_fit_request_id_is_taken_over(given: str) -> None:
    assert fit_request_id(given) == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\n", "é", "<b>", "a/b"])
def test_another_one_is_replaced(given: str) -> None:
    assert MADE_ID(fit_request_id(given))
    assert fit_request_id(given) != fit_request_id(given)


async def test_what_a_handler_logs_carries_the_ids_of_its_request() -> None:
    seen: dict[str, Any] = {}

    async def handle(_: web.Request) -> web.StreamResponse:
        seen.update(structlog.contextvars.get_contextvars())
        return json_response({})

    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"X-Request-Id": "r1", "X-Correlation-Id": "c1", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    async with served(web.get("/x", answering(handle))) as session:
        async with session.get("/x", headers=headers):
            assert seen == {"request_id": "r1", "correlation_id": "c1", "trace_id": trace}
        seen.clear()
        async with session.get("/x", headers={"X-Correlation-Id": "bad one", "traceparent": "junk"}):
            assert MADE_ID(seen.pop("request_id"))
            assert seen == {}


async def test_leaving_answers_what_is_in_flight() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def handle(_: web.Request) -> web.StreamResponse:
        entered.set()
        await leave.wait()
        return json_response({"done": True})

    async with aiohttp.ClientSession() as session:
        async with listening(application([web.get("/x", handle)], 10), "127.0.0.1", 0, what="X", drain_seconds=5) as port:
            asking = asyncio.create_task(session.get(f"http://127.0.0.1:{port}/x"))
            await entered.wait()
            asyncio.get_running_loop().call_later(0.05, leave.set)
        answer = await asking
        assert await answer.json() == {"done": True}
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"http://127.0.0.1:{port}/x")


async def test_a_port_in_use_names_the_setting() -> None:
    app = application([], 10)
    async with listening(app, "127.0.0.1", 0, what="TAS_HTTP_PORT") as port:
        with pytest.raises(Misconfigured) as caught:
            async with listening(application([], 10), "127.0.0.1", port, what="TAS_HTTP_PORT"):
                pass
        assert caught.value.detail == (
            f"TAS_HTTP_PORT: cannot listen on 127.0.0.1:{port}: it is in use; set TAS_HTTP_PORT to a free port"
        )
