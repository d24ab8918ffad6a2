"""The process service on a real broker."""

from typing import Any

import pytest

from services.process import room
from tas_mcp import subjects
from tas_mcp.broker import Pulled, Puller
from tas_mcp.messages import Presence, RoutedTo, decode_event, decode_presence, encode
from tests.nats_server import NatsServer
from tests.services.process.rig import document, event, prepared, processing, rule, save
from tests.shared.rig import ensure_stream, until


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LOOK_SECONDS", 0.05)


async def test_events_are_routed_recorded_and_acked(nats: NatsServer) -> None:
    async with prepared(nats.url) as broker:
        await save(broker, document("all"), document("big one", rules=[rule("gt", 100)]))
        async with processing(nats.url, broker) as rig:
            await rig.accept(event(event_id="small", data=b'{"amount": 1}'), event(event_id="big", data=b'{"amount": 101}'))
            await until(rig.idle)
            found = {(target, delivery.event_seq): delivery for target, delivery in await rig.deliveries()}
            assert set(found) == {("all", 1), ("all", 2), ("big one", 2)}
            assert found["big one", 2].rule_id == "gt-100"
            assert decode_event(found["all", 1].event) == event(event_id="small", data=b'{"amount": 1}')
            ids = [message.headers["Nats-Msg-Id"] for message in await broker.messages(subjects.DELIVERIES)]
            assert sorted(ids) == ["1:all", "2:all", "2:big one"]
            routed = {record.event_seq: record for record in await rig.routed()}
            assert [each.target_id for each in routed[1].targets] == ["all"]
            assert {each.target_id: each.revision for each in routed[2].targets} == {"all": 1, "big one": 2}
            ready, checks = rig.ops.readiness()
            assert {name for name, check in checks.items() if check["status"] == "down"} == {"serving"}
            assert not ready


async def test_of_a_split_group_exactly_one_target_gets_each_event_in_proportion(nats: NatsServer) -> None:
    async with prepared(nats.url) as broker:
        group: dict[str, Any] = {"split_group": "checkout", "split_key": "data.user"}
        await save(broker, document("new", weight=1, **group), document("old", weight=3, **group), document("all"))
        async with processing(nats.url, broker) as rig:
            await rig.accept(*(event(data=b'{"user": %d}' % (number % 100), event_id=f"e{number}") for number in range(200)))
            await until(rig.idle)
            got: dict[str, list[int]] = {"new": [], "old": [], "all": []}
            for target, delivery in await rig.deliveries():
                got[target].append(delivery.event_seq)
            everything = list(range(1, 201))
            assert sorted(got["all"]) == everything
            assert sorted(got["new"] + got["old"]) == everything
            assert 30 <= len(got["new"]) <= 70
            again = sorted(seq + 100 for seq in got["new"] if seq <= 100)
            assert again == sorted(seq for seq in got["new"] if seq > 100), "a user stays with a target"
            assert {each.target_id for record in await rig.routed() for each in record.targets} == set(got)


async def test_an_event_that_nobody_wants_is_recorded(nats: NatsServer) -> None:
    async with prepared(nats.url) as broker, processing(nats.url, broker) as rig:
        await rig.accept(event())
        await until(rig.idle)
        assert [(record.event_seq, record.event_id, record.targets) for record in await rig.routed()] == [(1, "e1", [])]
        assert await rig.deliveries() == []


async def test_no_event_is_taken_before_the_rules_are_there(nats: NatsServer) -> None:
    async with prepared(nats.url) as broker:
        await save(broker, *(document(f"t{number}") for number in range(200)))
        for number in range(20):
            await broker.publisher.store("tas.events.x", encode(event(event_id=f"e{number}")))
        async with processing(nats.url, broker) as rig:
            await until(rig.idle)
            assert len(await rig.deliveries()) == 200 * 20


async def test_a_changed_target_is_in_force_and_announced(nats: NatsServer) -> None:
    heard: list[Presence] = []
    async with prepared(nats.url) as broker:
        subscribed = broker.connection.subscribed(
            subjects.ALL_PRESENCE, lambda message: heard.append(decode_presence(message.data))
        )
        async with subscribed:
            async with processing(nats.url, broker) as rig:
                await save(broker, document("a", rules=[rule("lt", 0)]))
                await until(lambda: heard and heard[-1].revision == 1)
                await rig.accept(event())
                await until(rig.idle)
                await save(broker, document("a"))
                await until(lambda: heard[-1].revision == 2)
                await rig.accept(event())
                await until(rig.idle)
                assert [delivery.revision for _, delivery in await rig.deliveries()] == [2]
                assert {each.service for each in heard} == {"process"}
                assert len({each.instance for each in heard}) == 1
            await until(lambda: heard[-1].leaving)


async def test_an_invalid_target_is_seen_in_the_details_of_readiness(nats: NatsServer) -> None:
    async with prepared(nats.url) as broker, processing(nats.url, broker) as rig:
        await save(broker, document("a"))
        await until(lambda: rig.ops.readiness()[1]["targets"] == {"status": "up", "detail": ""})
        await broker.publisher.store(subjects.bucket_key(subjects.TARGETS_BUCKET, "a"), b"{")
        await until(lambda: "'a' revision 2" in rig.ops.readiness()[1]["targets"]["detail"])
        assert rig.ops.readiness()[1]["targets"]["status"] == "up"
        await rig.accept(event())
        await until(rig.idle)
        assert [delivery.revision for _, delivery in await rig.deliveries()] == [1]


async def test_events_handed_out_again_make_no_second_delivery(nats: NatsServer) -> None:
    async with prepared(nats.url) as broker:
        await save(broker, document("a"))
        async with processing(nats.url, broker) as rig:
            await rig.accept(*(event(event_id=f"e{number}") for number in range(50)))
            await until(rig.idle)
        config = (await broker.jetstream.consumer_info(subjects.EVENTS, subjects.PROCESS))["config"]
        await broker.jetstream.delete_consumer(subjects.EVENTS, subjects.PROCESS)
        await broker.jetstream.ensure_consumer(subjects.EVENTS, config)
        async with processing(nats.url, broker) as rig:
            await until(rig.idle)
            assert len(await rig.deliveries()) == 50
            assert len(await rig.routed()) == 100


async def test_an_event_that_kills_its_worker_is_set_aside(nats: NatsServer) -> None:
    async with prepared(nats.url) as broker:
        await save(broker, document("a"))
        times: list[int] = []

        def handle(pulled: Pulled) -> None:
            times.append(pulled.delivered)
            if len(times) == 5:
                puller.pause()
            pulled.nak()

        await broker.publisher.store("tas.events.x", encode(event(event_id="poison")))
        puller = Puller(broker.connection, subjects.EVENTS, subjects.PROCESS, handle, limit=1)
        async with puller.running():
            await until(lambda: len(times) == 5)
        assert times == [1, 2, 3, 4, 5]
        async with processing(nats.url, broker) as rig:
            await rig.accept(event(event_id="good"))
            await until(rig.idle)
            letter = (await rig.dead())[0]
            assert (letter.target_id, letter.event_id, letter.reason) == ("_process", "poison", "poison")
            assert [delivery.event_seq for _, delivery in await rig.deliveries()] == [2]


async def test_a_full_queue_stops_nobody_else(nats: NatsServer) -> None:
    async with prepared(nats.url) as broker:
        await save(
            broker,
            document("dead", config={"max_queue": 3}),
            document("drop", config={"max_queue": 3, "overflow": "drop"}),
            document("room"),
        )
        async with processing(nats.url, broker) as rig:
            await rig.accept(*(event(event_id=f"e{number}") for number in range(3)))

            async def full() -> bool:
                await rig.accept(event(event_id="more"))
                await until(rig.idle)
                return {"dropped", "queue_full"} <= {each.result for each in (await rig.routed())[-1].targets}

            await until(full)
            queued = [target for target, _ in await rig.deliveries()]
            accepted = (await broker.jetstream.stream_info(subjects.EVENTS))["state"]["messages"]
            letters = await rig.dead()
            assert queued.count("room") == accepted
            assert 3 <= queued.count("dead") < accepted
            assert queued.count("dead") + len(letters) == accepted
            assert {(letter.target_id, letter.reason) for letter in letters} == {("dead", "queue_full")}
            await broker.jetstream.purge(subjects.DELIVERIES, subject=subjects.deliveries("dead"))

            async def again() -> bool:
                await rig.accept(event(event_id="again"))
                await until(rig.idle)
                return any(each == RoutedTo("dead", 1, "", "queued") for each in (await rig.routed())[-1].targets)

            await until(again)


async def test_parked_retries_count_as_queued(nats: NatsServer) -> None:
    async with prepared(nats.url) as broker:
        await save(broker, document("a", config={"max_queue": 100}), document("b", config={"max_queue": 100}))
        headers = {"Nats-Schedule": "@at 2100-01-01T00:00:00Z", "Nats-Schedule-Target": subjects.deliveries("a")}
        for seq in range(1001, 1101):
            await broker.publisher.store(subjects.retries("a", seq), b"{}", headers=headers)
        async with processing(nats.url, broker) as rig:

            async def full() -> bool:
                await rig.accept(event())
                await until(rig.idle)
                return RoutedTo("a", 1, "", "queue_full") in (await rig.routed())[-1].targets

            await until(full)
            assert await broker.jetstream.count(subjects.DELIVERIES, subjects.deliveries("b")) > 0
            assert await broker.jetstream.count(subjects.DELIVERIES, subjects.deliveries("a")) < 100, "it filled up without them"


async def test_above_the_high_water_mark_no_event_is_taken(nats: NatsServer) -> None:
    async with prepared(nats.url) as broker:
        await save(broker, document("a"))
        await broker.publisher.store(subjects.deliveries("other"), b"x" * 2000)
        config = (await broker.jetstream.stream_info(subjects.DELIVERIES))["config"]
        await ensure_stream(broker.jetstream, {**config, "metadata": {subjects.HIGH_WATER: "1000"}})
        async with processing(nats.url, broker, in_flight=1) as rig:
            await until(lambda: "above its mark of 1000" in rig.ops.readiness()[1]["room"]["detail"])
            await rig.accept(*(event(event_id=f"e{number}") for number in range(20)))

            async def stopped() -> bool:
                """Nothing is held, and nothing is asked for."""
                info = await broker.jetstream.consumer_info(subjects.EVENTS, subjects.PROCESS)
                return bool((info["num_ack_pending"], info["num_waiting"]) == (0, 0) and info["num_pending"] >= 15)

            await until(stopped)
            await broker.jetstream.purge(subjects.DELIVERIES, subject=subjects.deliveries("other"))
            await ensure_stream(broker.jetstream, {**config, "metadata": {subjects.HIGH_WATER: "1000000"}})
            await until(rig.idle)
            assert len(await rig.deliveries()) == 20
            assert rig.ops.readiness()[1]["room"]["status"] == "up"


async def test_a_delivery_too_large_for_the_broker_is_a_dead_letter_without_its_data(nats: NatsServer) -> None:
    async with prepared(nats.url) as broker:
        await save(broker, document("a"))
        async with processing(nats.url, broker) as rig:
            bare = len(encode(event(data=b'""')))
            text = b"x" * (broker.connection.max_payload - 512 - bare)
            await rig.accept(event(data=b'"%s"' % text), event(event_id="good"))
            await until(rig.idle)
            letter = (await rig.dead())[0]
            assert (letter.target_id, letter.reason) == ("a", "output_too_large")
            assert "the data is in EVENTS, sequence 1" in letter.detail
            assert [delivery.event_seq for _, delivery in await rig.deliveries()] == [2]


async def test_over_an_outage_every_event_gets_its_delivery_once(nats: NatsServer) -> None:
    async with prepared(nats.url) as broker:
        await save(broker, document("a"), document("b"))
        async with processing(nats.url, broker) as rig:
            for number in range(300):
                if number == 150:
                    nats.restart()

                async def stored(number: int = number) -> object:
                    return await broker.publisher.store("tas.events.x", encode(event(event_id=f"e{number}")), msg_id=f"e{number}")

                await until(stored)
            await until(rig.idle)
            seqs = sorted(delivery.event_seq for _, delivery in await rig.deliveries())
            assert seqs == sorted([*range(1, 301)] * 2)
            assert {record.event_seq for record in await rig.routed()} == set(range(1, 301))
