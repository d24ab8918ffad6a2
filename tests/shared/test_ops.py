"""Health, readiness and metrics, asked over a real port."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import structlog

from tas_mcp import __version__, telemetry
from tas_mcp.http import application, listening
from tas_mcp.ops import Ops


@asynccontextmanager
async def served(ops: Ops, *, metrics: bool = True, switches: bool = False) -> AsyncIterator[aiohttp.ClientSession]:
    routes = [*ops.routes(metrics=metrics), *(ops.switches() if switches else ())]
    async with listening(application(routes, 4096), "127.0.0.1", 0, what="TAS_OPS_PORT") as port:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield session


@pytest.mark.parametrize("path", ["/health", "/livez"])
async def test_alive_whatever_else_is_down(path: str) -> None:
    ops = Ops()
    ops.check("broker", lambda: "away")
    async with served(ops) as session, session.get(path) as answer:
        body = await answer.json()
        assert answer.status == 200
        assert answer.content_type == "application/json"
        assert (body["status"], body["version"]) == ("healthy", __version__)
        assert 0 <= body["uptime_seconds"] < 60


async def test_ready_names_each_dependency() -> None:
    ops, trouble = Ops(), {"broker": ""}
    ops.check("broker", lambda: trouble["broker"])
    ops.part("ingest").part("http").check("port", lambda: "")
    async with served(ops) as session:
        async with session.get("/ready") as answer:
            assert answer.status == 503
            assert (await answer.json())["checks"]["serving"] == {"status": "down", "detail": "starting or draining"}
        ops.serving = True
        async with session.get("/ready") as answer:
            assert answer.status == 200
            up = {"status": "up", "detail": ""}
            checks = {"broker": up, "ingest.http.port": up, "serving": up}
            assert await answer.json() == {"status": "ready", "checks": checks}
        trouble["broker"] = "connection refused"
        async with session.get("/ready") as answer:
            body = await answer.json()
            assert (answer.status, body["status"]) == (503, "not ready")
            assert body["checks"]["broker"] == {"status": "down", "detail": "connection refused"}
            assert body["checks"]["serving"]["status"] == "up"


async def test_readyz_does_not_ask_dependencies() -> None:
    ops = Ops()
    ops.check("broker", lambda: "away")
    async with served(ops) as session:
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.json()) == (503, {"status": "not ready"})
        ops.serving = True
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ready"})


async def test_metrics() -> None:
    counter = telemetry.counter("mcp_test_ops", "Made by a test", ["kind"])
    counter.labels("a").inc(3)
    async with served(Ops()) as session:
        async with session.get("/metrics") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert 'mcp_test_ops_total{kind="a"} 3.0' in (await answer.text()).splitlines()
        async with session.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            assert (await answer.text()).endswith("# EOF\n")


async def test_each_check_is_a_metric() -> None:
    ops, trouble = Ops(), {"outcomes": "cannot be stored"}
    ops.serving = True
    ops.part("process").check("outcomes", lambda: trouble["outcomes"])

    async def shown(session: aiohttp.ClientSession) -> list[str]:
        async with session.get("/metrics") as answer:
            return [line for line in (await answer.text()).splitlines() if line.startswith("mcp_check_up{")]

    async with served(ops) as session:
        assert await shown(session) == ['mcp_check_up{check="process.outcomes"} 0.0', 'mcp_check_up{check="serving"} 1.0']
        trouble["outcomes"] = ""
        assert await shown(session) == ['mcp_check_up{check="process.outcomes"} 1.0', 'mcp_check_up{check="serving"} 1.0']


async def test_no_metrics_on_the_public_port() -> None:
    async with served(Ops(), metrics=False) as session, session.get("/metrics") as answer:
        assert answer.status == 404


def test_a_note_is_shown_and_takes_nobody_down() -> None:
    ops, trouble = Ops(), {"targets": ""}
    ops.check("targets", lambda: trouble["targets"], lambda: "one of them is not valid")
    ops.serving = True
    assert ops.readiness() == (
        True,
        {"targets": {"status": "up", "detail": "one of them is not valid"}, "serving": {"status": "up", "detail": ""}},
    )
    trouble["targets"] = "away"
    ready, checks = ops.readiness()
    assert (ready, checks["targets"]) == (False, {"status": "down", "detail": "away"})


@pytest.fixture
def logs(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What was logged since it was asked for last."""
    yield lambda: capsys.readouterr().err
    structlog.reset_defaults()


async def test_the_log_level_changes_while_it_runs(logs: Callable[[], str]) -> None:
    log = telemetry.logger("tried")
    telemetry.configure("ops", "info", "json")
    async with served(Ops(), switches=True) as session:
        for body, status, level in [
            ("debug", 200, "debug"),
            ('{"level": "error"}', 200, "error"),
            ("loud", 400, "error"),
            ("{}", 400, "error"),
            ("{", 400, "error"),
            (" info\n", 200, "info"),
        ]:
            async with session.put("/loglevel", data=body) as answer:
                assert answer.status == status
                if status == 400:
                    assert (await answer.json())["code"] == "INVALID_REQUEST"
            async with session.get("/loglevel") as answer:
                assert await answer.json() == {"level": level}
            logs()
            log.info("seen?")
            assert bool(logs()) == (level in ("debug", "info"))


@pytest.mark.parametrize("metrics", [False, True], ids=["a public port", "the one port of tas dev"])
async def test_who_is_let_in_by_a_public_port_does_not_change_the_level(metrics: bool) -> None:
    async with served(Ops(), metrics=metrics) as session, session.put("/loglevel", data="debug") as answer:
        assert answer.status == 404
