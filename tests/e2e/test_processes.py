"""What happens to events when our own processes end, die, are paused or are several: nothing that was acknowledged is lost."""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.e2e.conftest import World, arrived, event
from tests.e2e.receiver import Reply
from tests.e2e.system import EVENTS, TARGETS, children, lives, until
from tests.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

DRAIN_SECONDS = 20.0
"""Of the services: see system.SETTINGS."""


@asynccontextmanager
async def flood(world: World, name: str) -> AsyncIterator[list[str]]:
    """Send events from several clients while inside; yields the ids that were acknowledged. What is not, is sent again."""
    acknowledged: list[str] = []
    stop = asyncio.Event()

    async def client() -> None:
        while not stop.is_set():
            given = event(name)
            while (answer := await world.system.try_call("POST", world.system.ingest + EVENTS, json=given)) is None or (
                answer.status != 200
            ):
                await asyncio.sleep(0.05)
            acknowledged.append(given["event_id"])

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(client())
        try:
            yield acknowledged
        finally:
            stop.set()


def grown(acknowledged: list[str], count: int) -> Callable[[], Any]:
    wanted = len(acknowledged) + count

    async def grew() -> bool:
        return len(acknowledged) >= wanted

    return grew


@pytest.mark.parametrize("name", ["ingest", "process", "forward", "control"])
async def test_sigterm_under_load_loses_nothing(world: World, name: str) -> None:
    topic = f"term-{name}"
    program = world.system.programs[name]
    await world.system.put(world.target(topic))
    world.receiver.script(topic, lambda _: Reply(200, delay=0.05))
    async with flood(world, topic) as acknowledged:
        await until(grown(acknowledged, 100))
        began = time.monotonic()
        program.signal(signal.SIGTERM)
        code = await program.ended(DRAIN_SECONDS + 1)
        assert code == 0, program.tail()
        assert time.monotonic() - began < DRAIN_SECONDS
        program.start()
        await world.system.ready(name)
        await until(grown(acknowledged, 100))
    await arrived(world, topic, *acknowledged)
    await world.system.drained()
    assert len(world.receiver.ids(topic)) == len(set(world.receiver.ids(topic)))  # and a drain makes no duplicate
    assert "Traceback" not in program.tail(100_000)


async def test_while_the_broker_is_away_events_are_refused_in_time(world: World) -> None:
    system = world.system
    await system.put(world.target("outage"))
    async with flood(world, "outage") as acknowledged:
        await until(grown(acknowledged, 50))
        system.programs["nats"].kill()
        killed = time.monotonic()
        answer = await system.send(event("outage"))
        while answer.status != 503:
            answer = await system.send(event("outage"))
        assert time.monotonic() - killed < 15
        for _ in range(5):
            answer = await system.send(event("outage"))
            assert answer.status == 503
            assert answer.seconds < 10
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.headers["Content-Type"].startswith("application/problem+json")
            assert answer.body["code"] == "UNAVAILABLE"
        managed = await system.call("GET", TARGETS)
        assert managed.status == 503
        assert "Retry-After" in managed.headers
        for name in ("ingest", "process", "forward", "control"):
            ready, alive = (
                await system.call("GET", system.ops(name) + "/ready"),
                await system.call("GET", system.ops(name) + "/health"),
            )
            assert (ready.status, ready.body["checks"]["broker"]["status"], alive.status) == (503, "down", 200), name
            assert (await system.call("GET", system.ops(name) + "/readyz")).status == 200
        system.programs["nats"].start()
        await system.ready()
        await until(grown(acknowledged, 50))
    await arrived(world, "outage", *acknowledged)
    await system.drained()


async def test_two_process_replicas_follow_a_change_together(world: World) -> None:
    """Each revision marks what it routes in two places. An event sent after the answer to a change is marked by that revision,
    or by a later one; no event by two."""
    system = world.system
    second = system.service("process", 0, label="process-2")
    system.programs["process-2"] = second
    sent: dict[str, int] = {}
    in_force = 0
    done = asyncio.Event()
    seconds: list[float] = []

    def revision(number: int) -> dict[str, Any]:
        own = {"field": "event_type", "operator": "eq", "value": "twins.made"}
        marks = {"add_fields": {"data.a": number, "data.b": number}}
        rules = [{"id": f"v{number}", "conditions": [own], "transform": marks}]
        return world.target("twins", rules=rules, config={"format": "data"})

    async def client() -> None:
        while not done.is_set():
            given = event("twins")
            given["data"] = {"id": given["event_id"]}
            sent[given["event_id"]] = in_force
            assert (await system.send(given)).status == 200

    try:
        second.start()
        await system.ready("process-2")
        await system.put(revision(0))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(client())
            for number in range(1, 9):
                answer = await system.change("PUT", f"{TARGETS}/twins", json=revision(number))
                assert answer.status == 200, answer.body
                seconds.append(answer.seconds)
                if "in_force" not in answer.body:  # else the machine had something else to do for a whole second
                    in_force = number
                before = len(sent)
                await until(lambda before=before: grew(sent, before + 20))  # type: ignore[misc]
            done.set()
        await system.drained()
        bodies = [found.json for found in world.receiver.of("twins")]
        evaluated = [(await system.call("GET", system.ops(name) + "/metrics")).body for name in ("process", "process-2")]
    finally:
        second.kill()
    assert {body["id"] for body in bodies} == set(sent)
    assert [body for body in bodies if body["a"] != body["b"] or body["a"] < sent[body["id"]]] == []
    assert {body["a"] for body in bodies} >= set(range(1, 9))
    assert all(re.search(r"^mcp_rules_evaluated_total [1-9]", text, re.MULTILINE) for text in evaluated)
    assert min(seconds) < 1, "an answer only ever came because it waited no longer"


async def grew(sent: dict[str, int], count: int) -> bool:
    return len(sent) >= count


async def test_workers_share_the_port_and_are_replaced(world: World) -> None:
    await world.system.put(world.target("crew"))
    port = free_port()
    program = world.system.service("ingest", port, "--workers", "2", label="crew")
    world.system.programs["crew"] = program
    url, ops = f"http://127.0.0.1:{port}", world.system.ops("crew")
    sent: list[str] = []

    async def accepted() -> dict[str, float]:
        """By worker, how many events it accepted, after one more event."""
        given = event("crew")
        answer = await world.system.try_call("POST", url + EVENTS, json=given)
        if answer is not None and answer.status == 200:
            sent.append(given["event_id"])
        page = (await world.system.call("GET", ops + "/metrics")).body
        of_interest = 'outcome="accepted",protocol="http"'
        lines = [line for line in page.splitlines() if line.startswith("mcp_events_total{") and of_interest in line]
        return {line.split('worker="')[1][0]: float(line.split()[-1]) for line in lines}

    async def both() -> bool:
        found = await accepted()
        return len(found) == 2 and all(found.values())

    program.start()
    try:
        await world.system.ready("crew")
        await until(both, what="both workers serving")
        await arrived(world, "crew", *sent)
        victim, other = children(program.pid)
        os.kill(victim, signal.SIGKILL)

        async def replaced() -> bool:
            found = children(program.pid)
            return len(found) == 2 and victim not in found and other in found

        await until(replaced, what="a new worker")
        await world.system.ready("crew")
        ready = await world.system.call("GET", ops + "/ready")
        assert sorted(ready.body["checks"]) == ["worker 0", "worker 1"]
        assert (await world.system.call("PUT", ops + "/loglevel", data="debug")).body == {"level": "debug"}
        assert program.tail().count("the log level was changed") == 2, "each of them was told"
        await until(both, what="both workers serving again")
        page = await world.system.call("GET", ops + "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        found = text_string_to_metric_families(page.body)  # type: ignore[no-untyped-call]
        families = {family.name: family for family in found}
        assert {sample.labels["worker"] for sample in families["mcp_events"].samples} == {"0", "1"}
        await arrived(world, "crew", *sent)
        workers = children(program.pid)
        program.signal(signal.SIGTERM)
        assert await program.ended(DRAIN_SECONDS + 1) == 0
        assert not any(map(lives, workers))
    finally:
        program.kill()
        del world.system.programs["crew"]
