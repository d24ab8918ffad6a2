"""Server-sent events, on a real broker and a real port."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import pytest

from tests.nats_server import NatsServer
from tests.services.ingest.rig import GOOD, Rig, serving
from tests.shared.rig import until

STREAM = "/api/v1/events/stream"
SECONDS = 30.0


class Block(NamedTuple):
    """What stands between two empty lines."""

    id: str = ""
    event: str = ""
    data: Any = None
    retry: str = ""


class Stream:
    """A client, which reads block by block."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def block(self) -> Block | None:
        """The next one that is no comment; None at the end."""
        fields: dict[str, Any] = {}
        async with asyncio.timeout(SECONDS):
            while line := await self.answer.content.readline():
                name, _, value = line.decode().rstrip("\n").partition(":")
                if name:
                    fields[name] = json.loads(value) if name == "data" else value.strip()
                elif not value and fields:
                    return Block(**fields)
        return None

    async def events(self, count: int) -> list[str]:
        """The types of the next events."""
        found = [await self.block() for _ in range(count)]
        return [block.data["event_type"] for block in found if block]


@asynccontextmanager
async def stream(rig: Rig, *query: tuple[str, str], **headers: str) -> AsyncIterator[Stream]:
    """A stream that has begun."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with rig.session.get(STREAM, params=query, headers=sent) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        found = Stream(answer)
        begun = await found.block()
        assert begun is not None
        assert begun.retry
        yield found


@pytest.fixture
async def rig(nats: NatsServer) -> AsyncIterator[Rig]:
    async with serving(nats.url) as found:
        yield found


async def store(rig: Rig, *names: str, **more: Any) -> None:
    for name in names:
        await until(lambda name=name: stored(rig, {"event_id": name, "event_type": name, "source": "test", **more}), SECONDS)  # type: ignore[misc]


async def stored(rig: Rig, event: dict[str, Any]) -> bool:
    return (await rig.post(json.dumps(event).encode())).status == 200


async def test_events_as_they_are_stored(rig: Rig) -> None:
    await store(rig, "before")
    async with stream(rig) as found:
        await store(rig, "a", data={"n": 1})
        block = await found.block()
        assert block is not None
        assert (block.id, block.event, block.data["event_type"], block.data["data"]) == ("2", "", "a", {"n": 1})


async def test_both_lanes(nats: NatsServer) -> None:
    async with serving(nats.url, express=False) as rig, stream(rig) as found:
        await store(rig, "a")
        assert await found.events(1) == ["a"]


async def test_filters(rig: Rig) -> None:
    conditions = json.dumps([{"field": "data.n", "operator": "gt", "value": 1}])
    async with (
        stream(rig, ("event_types", "user.*"), ("event_types", "order.paid")) as types,
        stream(rig, ("conditions", conditions)) as large,
    ):
        await store(rig, "user.a", "order.made", "order.paid", data={"n": 1})
        await store(rig, "last", data={"n": 2})
        assert await types.events(2) == ["user.a", "order.paid"]
        assert await large.events(1) == ["last"]


async def test_a_client_that_comes_back_goes_on_where_it_was(rig: Rig) -> None:
    await store(rig, "a", "b", "c")
    async with stream(rig, Last_Event_ID="1") as found, stream(rig, ("last_event_id", "2")) as other:
        assert await found.events(2) == ["b", "c"]
        assert await other.events(1) == ["c"]


async def test_the_id_from_before_the_first_event_is_a_place_to_go_on_from(rig: Rig) -> None:
    await store(rig, "a")
    async with rig.session.get(STREAM) as answer:
        begun = await Stream(answer).block()
    assert begun is not None
    await store(rig, "b")
    async with stream(rig, Last_Event_ID=begun.id) as found:
        assert await found.events(1) == ["b"]


async def test_since(rig: Rig) -> None:
    await store(rig, "a")
    for since in ("2020-01-01T00:00:00+01:00", "1600000000"):
        async with stream(rig, ("since", since)) as found:
            assert await found.events(1) == ["a"]


@pytest.mark.parametrize(
    ("name", "value", "status", "pointer"),
    [
        ("since", "yesterday", 400, "/since"),
        ("since", "2020-01-01T00:00:00", 400, "/since"),
        ("since", "9" * 30, 400, "/since"),
        ("last_event_id", "-1", 400, "/last_event_id"),
        ("last_event_id", "²", 400, "/last_event_id"),
        ("conditions", "{", 400, "/conditions"),
        ("conditions", '[{"feild":"x"}]', 400, "/conditions/0/feild"),
        ("conditions", '[{"field":"data.x","operator":"larger"}]', 422, "/conditions/0/operator"),
        ("event_types", "x" * 600, 422, "/event_types/0"),
        ("event_type", "x", 400, "/event_type"),
    ],
)
async def test_what_makes_no_sense(rig: Rig, name: str, value: str, status: int, pointer: str) -> None:
    async with rig.session.get(STREAM, params={name: value}) as answer:
        found = await answer.json(content_type=None)
        assert (answer.status, found["errors"][0]["pointer"]) == (status, pointer)


async def test_data_over_several_lines_is_one_event(rig: Rig) -> None:
    async with stream(rig) as found:
        await rig.post(b'{"event_type":"a","source":"test","data":{\r\n"n":\r1,\n"text":"x\\ny"}}')
        block = await found.block()
        assert block is not None
        assert block.data["data"] == {"n": 1, "text": "x\ny"}


async def test_a_stream_with_nothing_to_tell_shows_that_it_lives(nats: NatsServer) -> None:
    async with serving(nats.url, sse_heartbeat_seconds=0.1) as rig, stream(rig) as found, asyncio.timeout(SECONDS):
        assert await found.answer.content.readuntil(b":\n\n") == b":\n\n"
        await store(rig, "a")
        assert await found.events(1) == ["a"]


async def test_a_client_that_does_not_read_is_told_what_it_missed_and_may_come_back(nats: NatsServer) -> None:
    count, large = 60, "x" * 500_000
    async with serving(nats.url, listener_bytes=1) as rig, stream(rig) as slow, stream(rig) as quick:
        for number in range(count):
            await store(rig, f"e{number}", data=large)
            assert await quick.events(1) == [f"e{number}"]
        last, lost = 0, 0
        while block := await slow.block():
            if block.event == "lagged":
                lost = block.data["missed"]
            else:
                last += 1
                assert block.id == str(last)
        assert lost > 0
        assert last + lost == count
        async with stream(rig, Last_Event_ID=str(last)) as again:
            assert await again.events(lost) == [f"e{number}" for number in range(last, count)]


async def test_a_broker_that_is_killed_costs_no_event(nats: NatsServer, rig: Rig) -> None:
    async with stream(rig) as found:
        await store(rig, "a")
        nats.restart()
        await store(rig, "b")
        assert await found.events(2) == ["a", "b"]


async def test_a_broker_that_is_away(nats: NatsServer, rig: Rig) -> None:
    nats.kill()

    async def refused() -> bool:
        async with rig.session.get(STREAM) as answer:
            return answer.status == 503 and "Retry-After" in answer.headers

    await until(refused, SECONDS)


async def test_a_drain_ends_the_stream(nats: NatsServer) -> None:
    async with AsyncExitStack() as stack, aiohttp.ClientSession() as session:
        rig = await stack.enter_async_context(serving(nats.url))
        async with session.get(f"http://127.0.0.1:{rig.port}{STREAM}") as answer:
            found = Stream(answer)
            assert await found.block()
            leaving = asyncio.create_task(stack.aclose())
            assert await found.block() is None
        await leaving


async def test_a_client_that_leaves_makes_room(nats: NatsServer) -> None:
    async with serving(nats.url, max_listeners=1, sse_heartbeat_seconds=0.1) as rig:
        async with stream(rig), rig.session.get(STREAM) as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (429, "5")

        async def taken() -> bool:
            async with rig.session.get(STREAM) as answer:
                return answer.status == 200

        await until(taken)


async def test_a_foreign_page_may_not(rig: Rig) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example:8080"}):
        async with rig.session.get(STREAM, headers=headers) as answer:
            assert (answer.status, (await answer.json(content_type=None))["code"]) == (403, "FORBIDDEN")


async def test_a_page_that_is_listed_may_read_it(nats: NatsServer) -> None:
    async with serving(nats.url, allowed_origins="https://app.example") as rig:
        async with rig.session.get(STREAM, headers={"Origin": "https://app.example"}) as answer:
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, "https://app.example")


async def test_there_is_no_other_method(rig: Rig) -> None:
    async with rig.session.head(STREAM) as answer:
        assert answer.status == 405
    assert (await rig.post(GOOD, STREAM)).status == 405
