"""What the janitor does, step by step, on a real broker."""

import time
from collections.abc import AsyncIterator

import pytest

from services.control.janitor import Janitor
from services.control.lanes import Lanes
from services.control.parked import Parked
from services.control.readings import Readings
from services.control.retention import Retention
from services.control.settings import Settings
from services.control.store import Store
from services.control.topology import Topology
from tas_mcp import subjects, targets, telemetry
from tas_mcp.broker import Pulled, Puller
from tas_mcp.errors import Unavailable
from tas_mcp.messages import encode
from tas_mcp.status import Status
from tas_mcp.status import encode as encode_status
from tas_mcp.statuses import StatusBucket
from tests.nats_server import NatsServer
from tests.services.control.conftest import ready
from tests.services.control.rig import TARGETS, Rig, event, running, target, until

HOUR = 3600.0


@pytest.fixture
async def quiet(nats: NatsServer) -> AsyncIterator[Rig]:
    """The service with a janitor that makes one round and then sleeps."""
    async with running(nats.url, janitor_seconds=3600.0, store_bytes=1_000_000) as found:
        await until(lambda: ready(found))
        yield found


def later() -> float:
    return time.time() + 2 * HOUR


async def store_events(rig: Rig, count: int) -> None:
    for seq in range(count):
        await rig.publisher.store(subjects.events("a.b"), encode(event(seq)))


async def first(rig: Rig) -> int:
    return int((await rig.jetstream.stream_info(subjects.EVENTS))["state"]["first_seq"])


async def acked(rig: Rig, count: int, floor_at: int) -> None:
    """Ack the next ``count`` events, so that the floor is at ``floor_at``."""
    found: list[Pulled] = []
    puller = Puller(rig.connection, subjects.EVENTS, subjects.PROCESS, found.append, limit=count)

    async def arrived() -> bool:
        return len(found) == count

    async with puller.running():
        await until(arrived)
        puller.pause()
        for pulled in found:
            pulled.ack()

    async def floor() -> bool:
        info = await rig.jetstream.consumer_info(subjects.EVENTS, subjects.PROCESS)
        return bool(info["ack_floor"]["stream_seq"] == floor_at)

    await until(floor)


async def test_old_events_go_but_not_those_that_somebody_has_not_acked(quiet: Rig) -> None:
    await store_events(quiet, 10)
    old = Retention(quiet.jetstream, HOUR, later)
    await old.purge()
    assert await first(quiet) == 1
    await acked(quiet, 6, 6)
    await Retention(quiet.jetstream, HOUR).purge()  # not old enough
    assert await first(quiet) == 1
    await old.purge()
    assert await first(quiet) == 7

    archive = {"durable_name": "archive", "ack_policy": "explicit", "deliver_policy": "all"}
    await quiet.jetstream.ensure_consumer(subjects.EVENTS, archive)
    await acked(quiet, 4, 10)
    await old.purge()
    assert await first(quiet) == 7
    await quiet.jetstream.delete_consumer(subjects.EVENTS, "archive")
    await old.purge()
    assert (await quiet.jetstream.stream_info(subjects.EVENTS))["state"]["messages"] == 0
    await old.purge()


async def test_only_what_is_past_its_time_goes(quiet: Rig) -> None:
    await store_events(quiet, 3)
    middle = time.time()
    await store_events(quiet, 3)
    await acked(quiet, 6, 6)
    await Retention(quiet.jetstream, HOUR, lambda: middle + HOUR).purge()
    assert await first(quiet) == 4


async def test_without_the_process_consumer_nothing_goes(quiet: Rig) -> None:
    await store_events(quiet, 3)
    await quiet.jetstream.delete_consumer(subjects.EVENTS, subjects.PROCESS)
    await Retention(quiet.jetstream, HOUR, later).purge()
    assert await first(quiet) == 1


async def test_a_full_stream_makes_room_of_what_everybody_has_read(quiet: Rig) -> None:
    async def fill() -> None:
        for _ in range(1000):
            await quiet.publisher.store(subjects.events("a.b"), b"x" * 10_000)

    with pytest.raises(Unavailable):
        await fill()
    last = (await quiet.jetstream.stream_info(subjects.EVENTS))["state"]["last_seq"]
    await Retention(quiet.jetstream, HOUR).purge()
    assert await first(quiet) == 1
    await acked(quiet, last, last)
    await Retention(quiet.jetstream, HOUR).purge()
    state = (await quiet.jetstream.stream_info(subjects.EVENTS))["state"]
    assert 0.5 < state["bytes"] / 400_000 < 0.65
    await quiet.publisher.store(subjects.events("a.b"), b"x" * 10_000)


async def test_a_missing_consumer_is_made_again_and_its_deliveries_are_there(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target())
    await rig.deliver("orders")
    await rig.jetstream.delete_consumer(subjects.DELIVERIES, subjects.forward_consumer("orders"))

    async def back() -> bool:
        names = [info["name"] for info in await rig.jetstream.consumers(subjects.DELIVERIES)]
        return "fwd_orders" in names

    await until(back)
    assert (await rig.consumer("orders"))["num_pending"] == 1
    assert (await rig.call("GET", f"{TARGETS}/orders")).body["status"]["pending"] == 1


async def test_consumers_in_memory_come_back_after_the_broker_was_killed(nats: NatsServer) -> None:
    async with running(nats.url, target_consumers_in_memory=True) as rig:
        assert (await rig.call("POST", TARGETS, json=target())).status == 201
        assert (await rig.consumer("orders"))["config"]["mem_storage"] is True
        await rig.deliver("orders")
        nats.restart()

        async def back() -> bool:
            infos = {info["name"]: info for info in await rig.jetstream.consumers(subjects.DELIVERIES)}
            return "fwd_orders" in infos and infos["fwd_orders"]["num_pending"] == 1

        await until(back)
        await until(lambda: ready(rig))


async def test_orphans_and_strays(quiet: Rig) -> None:
    store, settings = Store(quiet.jetstream, quiet.publisher), Settings()
    lanes = Lanes(quiet.jetstream, store, settings)
    await lanes.ensure("young")
    await quiet.deliver("stray")
    await lanes.mend()
    names = {info["name"] for info in await quiet.jetstream.consumers(subjects.DELIVERIES)}
    assert names == {"fwd_young", "fwd_stray"}
    assert [(entry.id, entry.stored) for entry in await store.all()] == [("stray", targets.Removed(id="stray"))]
    await Lanes(quiet.jetstream, store, settings, later).mend()
    names = {info["name"] for info in await quiet.jetstream.consumers(subjects.DELIVERIES)}
    assert names == {"fwd_stray"}


async def test_overdue_retries_are_made_to_fire(quiet: Rig) -> None:
    await quiet.park("orders", 1, HOUR)
    await quiet.park("orders", 2, 3 * HOUR)
    await Parked(quiet.jetstream, quiet.publisher).sweep()
    assert await quiet.stored(subjects.DELIVERIES, subjects.ALL_RETRIES) == 2
    await Parked(quiet.jetstream, quiet.publisher, later).sweep()

    async def fired() -> bool:
        return await quiet.stored(subjects.DELIVERIES, subjects.deliveries("orders")) == 1

    await until(fired)
    assert await quiet.stored(subjects.DELIVERIES, subjects.ALL_RETRIES) == 1
    assert await quiet.stored(subjects.DELIVERIES, subjects.retries("orders", 2)) == 1


async def test_a_retry_that_was_parked_anew_meanwhile_is_left_alone(quiet: Rig) -> None:
    parked = Parked(quiet.jetstream, quiet.publisher, later)
    await quiet.park("orders", 1, HOUR)
    seen = await parked._read(subjects.ALL_RETRIES, 1)
    await quiet.park("orders", 1, HOUR)
    assert await parked._rewrite(seen) == 0
    assert await quiet.stored(subjects.DELIVERIES, subjects.ALL_RETRIES) == 1


async def test_a_step_that_fails_stops_no_other(quiet: Rig) -> None:
    done = []

    async def broken() -> None:
        raise RuntimeError("no")

    async def away() -> None:
        raise Unavailable("away")

    async def fine() -> None:
        done.append(1)

    topology = Topology(quiet.connection, Settings())
    await Janitor(topology, {"a": broken, "b": away, "c": fine}, 1.0).round()
    assert done == [1]


async def test_the_gauges(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target())
    await rig.deliver("orders")
    await store_events(rig, 3)

    def gauges() -> str:
        return telemetry.render("")[0].decode()

    async def shown() -> bool:
        text = gauges()
        return (
            'mcp_consumer_pending{consumer="fwd_orders",stream="DELIVERIES"} 1.0' in text
            and 'mcp_consumer_pending{consumer="process",stream="EVENTS"} 3.0' in text
            and 'mcp_stream_fill_ratio{stream="EVENTS"}' in text
            and "mcp_deliverable_pending 1.0" in text
        )

    await until(shown)
    for action, left in (("pause", 0.0), ("resume", 1.0)):
        await rig.call("POST", f"{TARGETS}/orders/{action}")
        await until(lambda left=left: _gauge(f"mcp_deliverable_pending {left}"))  # type: ignore[misc]
    for status, left in ((Status(open_until=time.time() + 100), 0.0), (Status(), 1.0), (Status(gone=True), 0.0)):
        await rig.publisher.store(subjects.bucket_key(subjects.STATUS_BUCKET, "orders"), encode_status(status))
        await until(lambda left=left: _gauge(f"mcp_deliverable_pending {left}"))  # type: ignore[misc]
    await rig.call("DELETE", f"{TARGETS}/orders?queue=discard")

    async def hidden() -> bool:
        return "fwd_orders" not in gauges()

    await until(hidden)


async def _gauge(line: str) -> bool:
    return line in telemetry.render("")[0].decode()


async def test_how_long_the_oldest_waits_and_what_was_given_up_are_gauges(quiet: Rig) -> None:
    store, statuses = Store(quiet.jetstream, quiet.publisher), StatusBucket(quiet.jetstream, quiet.publisher)
    for target_id in ("orders", "idle"):
        await quiet.call("PUT", f"{TARGETS}/{target_id}", json=target(target_id))
    for seq in (1, 2):
        await quiet.deliver("orders", seq)
    await quiet.bury("orders", 3)
    await quiet.bury(subjects.POISON, 4)

    async def read(at: float) -> dict[str, float]:
        await Readings(quiet.jetstream, store, statuses, lambda: at).refresh()
        lines = telemetry.render("")[0].decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith("mcp_")}

    now = time.time() + HOUR
    found = await read(now)
    assert found['mcp_oldest_pending_seconds{target="orders"}'] == pytest.approx(HOUR, abs=60)
    assert found['mcp_oldest_pending_seconds{target="idle"}'] == 0
    dead = {name: value for name, value in found.items() if name.startswith("mcp_dead_letters_held")}
    assert dead == {
        'mcp_dead_letters_held{target="orders"}': 1,
        'mcp_dead_letters_held{target="idle"}': 0,
        'mcp_dead_letters_held{target="_process"}': 1,
    }
    assert found["mcp_readings_timestamp_seconds"] == pytest.approx(now)
    await quiet.jetstream.purge(subjects.DELIVERIES)
    assert (await read(now))['mcp_oldest_pending_seconds{target="orders"}'] == 0
    await quiet.call("DELETE", f"{TARGETS}/idle")
    assert 'mcp_oldest_pending_seconds{target="idle"}' not in await read(now)
