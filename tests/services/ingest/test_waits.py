"""Requests that wait for what becomes of their event; the test plays process and forward."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import permutations

import pytest

from services.ingest.waits import Progress, Wait
from tas_mcp import subjects
from tas_mcp.messages import INBOX, Attempted, Routed, RoutedTo, encode
from tests.nats_server import NatsServer
from tests.services.ingest.rig import BATCH, EVENTS, GOOD, Reply, Rig, connected, request, serving
from tests.shared.rig import until


def routed(*results: str) -> Routed:
    return Routed(1, "e", 1, 1.0, [RoutedTo(f"t{number}", 1, "", result) for number, result in enumerate(results)])


def attempted(target_id: str, result: str, number: int = 1, status: int = 200) -> Attempted:
    return Attempted(1, "e", 1, target_id, 1, number, result, status, 1.0, 1.0)


# What is known.


@pytest.mark.parametrize(
    ("result", "status", "complete"),
    [
        ("queued", "pending", False),
        ("queue_full", "dead", True),
        ("transform_failed", "dead", True),
        ("output_too_large", "dead", True),
        ("dropped", "dropped", True),
    ],
)
def test_a_target_that_was_not_tried(result: str, status: str, complete: bool) -> None:
    wait = Wait("i")
    wait.routed(routed(result))
    assert (wait.deliveries, wait.complete) == ([Progress("t0", status)], complete)


@pytest.mark.parametrize(
    ("result", "status", "complete"),
    [
        ("delivered", "delivered", True),
        ("dead", "dead", True),
        ("dropped", "dropped", True),
        ("retrying", "retrying", False),
        ("gone", "pending", False),
    ],
)
def test_a_target_that_was_tried(result: str, status: str, complete: bool) -> None:
    wait = Wait("i")
    wait.routed(routed("queued"))
    wait.attempted(attempted("t0", result, 3, 503))
    assert (wait.deliveries, wait.complete) == ([Progress("t0", status, 3, 503)], complete)


def test_nothing_is_complete_before_it_is_routed_and_all_is_where_no_target_matches() -> None:
    tried = Wait("i")
    tried.attempted(attempted("t0", "delivered"))
    assert not tried.complete
    routed_too = Wait("i")
    routed_too.attempted(attempted("t0", "delivered"))
    routed_too.routed(routed("queued"))
    assert routed_too.complete
    nobody = Wait("i")
    nobody.routed(routed())
    assert (nobody.complete, nobody.deliveries) == (True, [])


def test_notices_may_come_in_any_order() -> None:
    notices: list[Routed | Attempted] = [
        routed("queued", "queued"),
        attempted("t0", "delivered"),
        attempted("t1", "dead", 2, 500),
    ]
    for order in permutations(notices):
        wait = Wait("i")
        for notice in order:
            if isinstance(notice, Routed):
                wait.routed(notice)
            else:
                wait.attempted(notice)
        assert wait.complete
        assert wait.deliveries == [Progress("t0", "delivered", 1, 200), Progress("t1", "dead", 2, 500)]


# Over HTTP, on both lanes.


@pytest.fixture
async def rig(nats: NatsServer, express: bool) -> AsyncIterator[Rig]:
    async with serving(nats.url, express=express) as found:
        yield found


JSON = {"Content-Type": "application/json"}


@asynccontextmanager
async def waiting(rig: Rig, seconds: int = 30) -> AsyncIterator[tuple[str, "asyncio.Task[Reply]"]]:
    """A request that waits: the inbox that its event names, and its answer."""
    before = len(await rig.broker.messages(subjects.EVENTS))
    task = asyncio.create_task(rig.post(GOOD, headers={**JSON, "Prefer": f"wait={seconds}"}))

    async def inbox() -> str:
        return next((message.headers[INBOX] for message in (await rig.broker.messages(subjects.EVENTS))[before:]), "")

    try:
        yield await until(inbox), task
    finally:
        task.cancel()


async def test_the_answer_waits_for_every_target(rig: Rig) -> None:
    async with waiting(rig) as (inbox, task):
        rig.broker.connection.send(inbox + ".routed", encode(routed("queued", "queue_full")))
        rig.broker.connection.send(inbox + ".attempts", encode(attempted("t0", "retrying", 1, 503)))
        await rig.broker.connection.flush()
        assert not task.done()
        rig.broker.connection.send(inbox + ".attempts", encode(attempted("t0", "delivered", 2, 204)))
        found = await task
    assert (found.status, found.headers["preference-applied"]) == (200, "wait")
    assert found.headers["location"] == EVENTS + "/" + found.body["event_id"]
    assert found.body == {
        "event_id": found.body["event_id"],
        "status": "accepted",
        "complete": True,
        "deliveries": [
            {"target_id": "t0", "status": "delivered", "attempts": 2, "response_status": 204},
            {"target_id": "t1", "status": "dead", "attempts": 0, "response_status": 0},
        ],
    }


async def test_it_answers_with_what_is_known_when_the_time_is_over(rig: Rig) -> None:
    found = await rig.post(GOOD, headers={**JSON, "Prefer": "wait=1"})
    assert (found.status, found.body["complete"], found.body["deliveries"]) == (200, False, [])


async def test_what_cannot_be_read_is_no_news(rig: Rig) -> None:
    async with waiting(rig) as (inbox, task):
        for kind in (".routed", ".attempts", ".other", ".more.words"):
            rig.broker.connection.send(inbox + kind, b"{")
        rig.broker.connection.send(inbox + ".routed", encode(routed()))
        assert (await task).body["complete"]


async def test_each_hears_of_its_own_event(rig: Rig) -> None:
    async with waiting(rig) as (one, first), waiting(rig) as (two, second):
        rig.broker.connection.send(two + ".routed", encode(routed()))
        assert (await second).body["complete"]
        assert one != two
        assert not first.done()
        rig.broker.connection.send(one + ".routed", encode(routed("dropped")))
        assert [each["status"] for each in (await first).body["deliveries"]] == ["dropped"]


async def test_what_is_refused_or_known_is_not_waited_for(rig: Rig) -> None:
    prefer = {**JSON, "Prefer": "wait=30"}
    assert (await rig.post(b"{}", headers=prefer)).status == 400
    body = b'{"event_type":"a","source":"b","event_id":"e"}'
    assert (await rig.post(body)).status == 200
    again = await rig.post(body, headers=prefer)
    assert again.body == {"event_id": "e", "status": "accepted", "duplicate": True}
    assert "preference-applied" not in again.headers


async def test_without_a_preference_that_it_understands_an_event_names_no_inbox(rig: Rig) -> None:
    for prefer in ("wait=0", "wait=soon", "respond-async"):
        found = await rig.post(GOOD, headers={**JSON, "Prefer": prefer})
        assert "preference-applied" not in found.headers
    await rig.post(b"[%s]" % GOOD, BATCH, headers={**JSON, "Prefer": "wait=30"})
    assert all(INBOX not in message.headers for message in await rig.broker.messages(subjects.EVENTS))


async def test_no_more_than_so_many_wait(nats: NatsServer, express: bool) -> None:
    async with serving(nats.url, express=express, max_waits=1) as rig, waiting(rig) as (inbox, task):
        found = await rig.post(GOOD, headers={**JSON, "Prefer": "wait=30"})
        assert (found.status, "complete" in found.body) == (200, False)
        rig.broker.connection.send(inbox + ".routed", encode(routed()))
        await task
        async with waiting(rig) as (next_inbox, next_task):
            rig.broker.connection.send(next_inbox + ".routed", encode(routed()))
            assert (await next_task).body["complete"]


async def test_leaving_ends_the_waits(nats: NatsServer, express: bool) -> None:
    async with AsyncExitStack() as clients:
        async with serving(nats.url, express=express) as rig:
            client = await clients.enter_async_context(connected(rig.port))
            client.send(request(GOOD, "Prefer: wait=30"))
            await until(rig.stored)
        found = await client.reply()
    assert found
    assert (found.status, found.body["complete"]) == (200, False)
