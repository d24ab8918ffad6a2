"""The live tail on a real broker, which comes and goes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from services.ingest.filters import compile_filter
from services.ingest.tail import Lagged, Listener, Stored, Tail
from tas_mcp import subjects
from tas_mcp.errors import Overloaded, Unavailable
from tas_mcp.messages import Event, encode
from tests.nats_server import NatsServer
from tests.shared.rig import Broker, linked, until


class Rig(NamedTuple):
    """A tail, and who stores events."""

    tail: Tail
    broker: Broker

    async def store(self, *names: str) -> None:
        """Store events of these types, whatever the broker is doing."""
        for name in names:
            event = Event(event_id=name, event_type=name, source="test", timestamp=1, accepted_at=1)

            async def stored(event: Event = event) -> bool:
                publisher = self.broker.publisher
                await publisher.store(subjects.events(event.event_type), encode(event), msg_id=event.event_id)
                return True

            await until(stored)


@asynccontextmanager
async def tailing(nats: NatsServer, *, lay_out: bool = True, **bounds: int) -> AsyncIterator[Rig]:
    async with linked(nats.url) as broker, linked(nats.url) as reading:
        if lay_out:
            await broker.lay_out()
        async with Tail(reading.connection, **bounds).running() as tail:
            yield Rig(tail, broker)


@pytest.fixture
async def rig(nats: NatsServer) -> AsyncIterator[Rig]:
    async with tailing(nats) as found:
        yield found


async def taken(listener: Listener, count: int) -> list[str]:
    """The types of the next events."""
    found: list[Stored] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            found += await listener.take()
    return [stored.event.event_type for stored in found]


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}.{number}" for number in range(count)]


async def test_what_comes_from_now_on(rig: Rig) -> None:
    await rig.store("before")
    async with rig.tail.listening() as listener:
        await rig.store("a", "b")
        assert await taken(listener, 2) == ["a", "b"]
        await rig.store("c")
        [stored] = await listener.take()
    assert (stored.sequence, stored.event.event_type) == (4, "c")
    assert stored.text == encode(stored.event)


async def test_from_a_sequence_through_the_seam(rig: Rig) -> None:
    """Events are stored all the while that a listener goes from the past to the present."""
    await rig.store(*names("old", 50))
    async with rig.tail.listening(start=10) as listener:
        storing = asyncio.create_task(rig.store(*names("new", 200)))
        assert await taken(listener, 240) == [*names("old", 50)[10:], *names("new", 200)]
        await storing


async def test_from_a_time(rig: Rig) -> None:
    await rig.store("before")
    [message] = await rig.broker.jetstream.direct(subjects.EVENTS, {"seq": 1, "next_by_subj": subjects.ALL_EVENTS, "batch": 1})
    await rig.store("after")
    since = datetime.fromisoformat(message.headers["Nats-Time-Stamp"]).replace(tzinfo=UTC) + timedelta(microseconds=1)
    async with rig.tail.listening(start=since) as listener, rig.tail.listening(start=since - timedelta(days=1)) as all_of_them:
        assert await taken(listener, 1) == ["after"]
        assert await taken(all_of_them, 2) == ["before", "after"]


async def test_from_a_time_that_is_to_come(rig: Rig) -> None:
    await rig.store("before")
    async with rig.tail.listening(start=datetime.now(UTC) + timedelta(days=1)) as listener:
        await rig.store("after")
        assert await taken(listener, 1) == ["after"]


async def test_from_a_sequence_that_never_was(rig: Rig) -> None:
    """As after another broker took the place of the old one."""
    await rig.store("a")
    async with rig.tail.listening(start=1000) as listener:
        await rig.store("b")
        assert await taken(listener, 1) == ["b"]


async def test_from_a_sequence_that_was_purged(rig: Rig) -> None:
    await rig.store("a", "b", "c")
    await rig.broker.jetstream.purge(subjects.EVENTS)
    async with rig.tail.listening(start=0) as listener:
        await rig.store("d")
        assert await taken(listener, 1) == ["d"]


async def test_many_listen_each_to_its_own(rig: Rig) -> None:
    await rig.store("user.old")
    users, orders = compile_filter(["user.*"]), compile_filter(["order.*"])
    async with (
        rig.tail.listening(users, 0) as past,
        rig.tail.listening(users) as first,
        rig.tail.listening(orders) as second,
        rig.tail.listening() as everything,
    ):
        await rig.store("user.a", "order.a", "user.b")
        assert await taken(past, 3) == ["user.old", "user.a", "user.b"]
        assert await taken(first, 2) == ["user.a", "user.b"]
        assert await taken(second, 1) == ["order.a"]
        assert await taken(everything, 3) == ["user.a", "order.a", "user.b"]


async def test_who_does_not_follow_gets_what_there_is_and_the_end(rig: Rig) -> None:
    await rig.store("a", "b")
    async with rig.tail.listening(start=0, follow=False) as listener:
        await rig.store("c")
        assert await taken(listener, 2) == ["a", "b"]
        assert await listener.take() == []


async def test_who_does_not_follow_ends_where_nothing_is_left(rig: Rig) -> None:
    await rig.store("a", "b")
    async with rig.tail.listening(start=0, follow=False) as listener:
        await rig.broker.jetstream.purge(subjects.EVENTS)
        assert await listener.take() == []


async def test_one_that_does_not_keep_up_is_cut_and_delays_nobody(nats: NatsServer) -> None:
    async with tailing(nats, events=10) as rig, rig.tail.listening() as slow, rig.tail.listening() as quick:
        await rig.store("first")
        assert await taken(slow, 1) == await taken(quick, 1) == ["first"]
        for number in range(25):
            await rig.store(f"e.{number}")
            assert await taken(quick, 1) == [f"e.{number}"]
        with pytest.raises(Lagged) as caught:
            await slow.take()
        assert caught.value.missed == 25


async def test_what_waits_is_bounded_in_bytes(nats: NatsServer) -> None:
    async with tailing(nats, size=1) as rig, rig.tail.listening() as slow, rig.tail.listening() as quick:
        await rig.store("a")
        assert await taken(quick, 1) == ["a"]
        assert await taken(slow, 1) == ["a"]
        await rig.store("b", "c")
        with pytest.raises(Lagged):
            await taken(slow, 2)


async def test_too_many_listeners(nats: NatsServer) -> None:
    async with tailing(nats, most=1) as rig:
        async with rig.tail.listening():
            with pytest.raises(Overloaded):
                await rig.tail.listening().__aenter__()
        async with rig.tail.listening() as listener:
            await rig.store("a")
            assert await taken(listener, 1) == ["a"]


async def test_a_wait_that_is_given_up_loses_nothing(rig: Rig) -> None:
    async with rig.tail.listening() as listener:
        waiting = asyncio.create_task(listener.take())
        await asyncio.sleep(0)
        waiting.cancel()
        await rig.store("a")
        assert await taken(listener, 1) == ["a"]


async def test_what_comes_while_nobody_listens_is_not_heard(rig: Rig) -> None:
    async with rig.tail.listening() as listener:
        await rig.store("a")
        assert await taken(listener, 1) == ["a"]
    await rig.store("unheard")
    async with rig.tail.listening() as listener:
        await rig.store("b")
        assert await taken(listener, 1) == ["b"]


async def test_a_broker_that_is_killed_costs_no_event(nats: NatsServer, rig: Rig) -> None:
    await rig.store(*names("old", 5))
    async with rig.tail.listening() as live, rig.tail.listening(start=0) as past:
        for number in range(3):
            await rig.store(f"round.{number}.a", f"round.{number}.b")
            nats.restart()
        await rig.store("last")
        wanted = [f"round.{number}.{part}" for number in range(3) for part in "ab"] + ["last"]
        assert await taken(live, 7) == wanted
        assert await taken(past, 12) == [*names("old", 5), *wanted]


async def test_a_broker_that_is_away(nats: NatsServer, rig: Rig) -> None:
    nats.kill()
    await until(lambda: not rig.tail._connection.connected)
    with pytest.raises(Unavailable):
        await rig.tail.listening().__aenter__()


async def test_a_broker_that_lost_its_store(nats: NatsServer, rig: Rig) -> None:
    """A new stream starts to count anew; the listener hears of what comes."""
    await rig.store(*names("old", 5))
    async with rig.tail.listening() as listener:
        await rig.store("a")
        assert await taken(listener, 1) == ["a"]
        await rig.broker.jetstream.call(f"STREAM.DELETE.{subjects.EVENTS}")
        nats.kill()
        nats.start()
        await until(lambda: laid_out(rig))
        await until(lambda: rig.tail._next == 1)
        await rig.store("b")
        assert await taken(listener, 1) == ["b"]


async def laid_out(rig: Rig) -> bool:
    await rig.broker.lay_out()
    return True
