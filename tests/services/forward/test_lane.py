"""The forward service on a real broker: what becomes of a delivery, whatever the target does."""

import asyncio
import time
from datetime import datetime
from typing import Any, cast

import msgspec
import pytest
from standardwebhooks.webhooks import Webhook

from services.forward import storage as module
from services.forward.lane import Lane
from services.forward.statuses import Statuses
from services.forward.traces import Traces
from tas_mcp import subjects, targets
from tas_mcp.broker import JetStream, Message, Publisher, Pulled, Puller
from tas_mcp.messages import Delivery, decode_event, encode, webhook_id
from tas_mcp.outcomes import Outcomes
from tas_mcp.statuses import StatusBucket
from tas_mcp.tracing import Tracer
from tests.fakes import MemoryBroker
from tests.nats_server import NatsServer
from tests.otlp import collecting
from tests.services.forward.rig import OPEN, Rig, event, forwarding
from tests.shared.rig import ensure_stream, until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LATER: dict[str, Any] = {"retry": {"schedule": ["1h"]}}
SOON: dict[str, Any] = {"retry": {"schedule": ["100ms", "100ms"]}}


async def until_settled(rig: Rig, *target_ids: str) -> None:
    for target_id in target_ids:
        await until(lambda target_id=target_id: rig.settled(target_id))  # type: ignore[misc]


# One delivery.


async def test_delivered_recorded_acked(rig: Rig) -> None:
    await rig.save("a b", path="hook", config={"signing_secret": SECRET})
    await rig.owe("a b", 7)
    async with forwarding(rig) as ops:
        await until_settled(rig, "a b")
        path, headers, body = rig.receiver.seen[0]
        assert (path, body["event_id"], body["data"]) == ("hook", "e7", '{"n": 1}')
        assert headers["webhook-id"] == webhook_id(event(7))
        Webhook(SECRET).verify(msgspec.json.encode(body), headers)
        assert headers["webhook-timestamp"].isdigit()
        record = (await rig.records("a b"))[0]
        assert (record.event_seq, record.event_id, record.accepted_at, record.revision) == (7, "e7", 5, 1)
        assert (record.number, record.result, record.status, record.error) == (1, "delivered", 200, "")
        assert 0 < record.duration_ms < 60_000
        assert abs(record.at - time.time()) < 60
        assert len(rig.receiver.seen) == 1
        checks = ops.readiness()[1]
        assert {name for name, check in checks.items() if check["status"] == "down"} == {"serving"}


async def test_the_text_of_a_template_is_sent_as_it_stands_on_every_attempt(rig: Rig) -> None:
    await rig.save("a", config={**SOON, "signing_secret": SECRET})
    rig.receiver.statuses["a"] = lambda _: 503
    await rig.owe("a", 7, body='{"event_id": "of the template"}', content_type="application/vnd.x+json")
    async with forwarding(rig):
        await until_settled(rig, "a")
    assert len(rig.receiver.seen) == 3
    for _, headers, body in rig.receiver.seen:
        assert body == {"event_id": "of the template"}
        assert (headers["content-type"], headers["webhook-id"]) == ("application/vnd.x+json", webhook_id(event(7)))
        Webhook(SECRET).verify('{"event_id": "of the template"}', headers)
    [letter] = await rig.dead("a")
    assert (letter.delivery.body, letter.delivery.content_type) == ('{"event_id": "of the template"}', "application/vnd.x+json")
    assert decode_event(letter.delivery.event) == event(7)


async def test_a_failed_delivery_is_parked_with_its_history(rig: Rig) -> None:
    await rig.save("a", config=LATER)
    rig.receiver.statuses["a"] = lambda _: 503
    await rig.owe("a", 7)
    async with forwarding(rig):

        async def waits() -> bool:
            return await rig.queued("a") == 0 and len(await rig.parked("a")) == 1

        await until(waits)
    message, delivery = (await rig.parked("a"))[0]
    assert message.subject == "tas.retries.a.7"
    ours = set(message.headers) - {"Nats-Rollup"}  # the server's own: a schedule replaces the one before
    assert ours == {"Nats-Schedule", "Nats-Schedule-Target"}, "a message id would have it taken for a duplicate"
    assert message.headers["Nats-Schedule-Target"] == "tas.deliveries.a"
    at = datetime.fromisoformat(message.headers["Nats-Schedule"].removeprefix("@at ")).timestamp()
    assert time.time() + 0.79 * 3600 < at < time.time() + 1.21 * 3600
    assert (delivery.event_seq, delivery.revision, delivery.rule_id) == (7, 1, "r")
    assert bytes(delivery.event) == encode(event(7))
    attempt = delivery.attempts[0]
    assert (len(delivery.attempts), attempt.number, attempt.status) == (1, 1, 503)
    assert attempt.error == "the target answered 503: so it is"
    assert attempt.duration_ms > 0
    assert await rig.outcomes("a") == [(7, 1, "retrying", 503)]
    assert await rig.dead() == []


async def test_a_parked_delivery_comes_back_and_is_the_same_to_the_receiver(rig: Rig) -> None:
    await rig.save("a", config=SOON)
    rig.receiver.statuses["a"] = lambda number: 500 if number <= 2 else 200
    await rig.owe("a", 7)
    async with forwarding(rig):
        await until_settled(rig, "a")
    assert await rig.outcomes("a") == [(7, 1, "retrying", 500), (7, 2, "retrying", 500), (7, 3, "delivered", 200)]
    assert rig.receiver.ids("a") == [webhook_id(event(7))] * 3


async def test_at_the_end_of_its_schedule_a_delivery_is_dead_with_all_that_happened(rig: Rig) -> None:
    await rig.save("a", config=SOON)
    rig.receiver.statuses["a"] = lambda number: 500 + number
    await rig.owe("a", 7)
    async with forwarding(rig):
        await until_settled(rig, "a")
        letter = (await rig.dead("a"))[0]
        assert (letter.target_id, letter.event_id, letter.reason) == ("a", "e7", "attempts_exhausted")
        assert letter.detail == "the target answered 503: so it is"
        assert [(each.number, each.status) for each in letter.delivery.attempts] == [(1, 501), (2, 502), (3, 503)]
        assert [each.at for each in letter.delivery.attempts] == sorted(each.at for each in letter.delivery.attempts)
        assert decode_event(letter.delivery.event) == event(7)
        assert [result for _, _, result, _ in await rig.outcomes("a")] == ["retrying", "retrying", "dead"]
        await rig.owe("a", 7, redrives=1)
        await until(lambda: len(rig.receiver.seen) == 6)
        await until_settled(rig, "a")
    assert rig.receiver.ids("a") == [webhook_id(event(7))] * 6, "the same on every attempt and redrive"
    assert [each.delivery.redrives for each in await rig.dead("a")] == [0, 1]


async def test_a_refused_delivery_is_dead_at_once(rig: Rig) -> None:
    await rig.save("a", config=LATER)
    rig.receiver.statuses["a"] = lambda _: 404
    await rig.owe("a", 7)
    async with forwarding(rig):
        await until_settled(rig, "a")
    letter = (await rig.dead("a"))[0]
    assert (letter.reason, letter.detail) == ("refused", "the target answered 404: so it is")
    assert [attempt.response for attempt in letter.delivery.attempts] == ["so it is"]
    assert [(each.number, each.status) for each in letter.delivery.attempts] == [(1, 404)]
    assert await rig.outcomes("a") == [(7, 1, "dead", 404)]
    assert len(rig.receiver.seen) == 1


async def test_without_a_schedule_there_is_one_attempt(rig: Rig) -> None:
    await rig.save("a", config={"retry": {"schedule": []}})
    rig.receiver.statuses["a"] = lambda _: 500
    await rig.owe("a", 7)
    async with forwarding(rig):
        await until_settled(rig, "a")
    assert [each.reason for each in await rig.dead("a")] == ["attempts_exhausted"]
    assert len(rig.receiver.seen) == 1


async def test_what_the_target_asks_for_is_obeyed(rig: Rig) -> None:
    await rig.save("a", config=SOON)
    rig.receiver.statuses["a"] = lambda _: 429
    rig.receiver.headers["Retry-After"] = "45"
    await rig.owe("a", 7)
    async with forwarding(rig):
        message, _ = (await until(lambda: rig.parked("a")))[0]
    at = datetime.fromisoformat(message.headers["Nats-Schedule"].removeprefix("@at ")).timestamp()
    assert time.time() + 30 < at < time.time() + 46


async def test_no_answer_in_time_is_a_failure(rig: Rig) -> None:
    await rig.save("a", config={**LATER, "timeout": "200ms"})
    rig.receiver.held["a"] = asyncio.Event()
    await rig.owe("a", 7)
    async with forwarding(rig):
        _, delivery = (await until(lambda: rig.parked("a")))[0]
        attempt = delivery.attempts[0]
        assert (attempt.status, attempt.error) == (0, "no answer within 200ms")
        assert 190 < attempt.duration_ms < 10_000


async def test_nobody_there_is_a_failure(rig: Rig) -> None:
    await rig.save("a", config=LATER, endpoint="http://127.0.0.1:1/x")
    await rig.owe("a", 7)
    async with forwarding(rig):
        _, delivery = (await until(lambda: rig.parked("a")))[0]
        assert delivery.attempts[0].status == 0
        assert "no connection to 127.0.0.1:1" in delivery.attempts[0].error


# Several lanes, several deliveries.


async def test_a_target_that_hangs_delays_no_other(rig: Rig) -> None:
    await rig.save("slow", config={"concurrency": 2})
    await rig.save("fast")
    rig.receiver.held["slow"] = asyncio.Event()
    await rig.owe("slow", *range(1, 51))
    await rig.owe("fast", *range(1, 51))
    async with forwarding(rig):
        await until_settled(rig, "fast")
        assert sorted(rig.receiver.got("fast")) == sorted(f"e{seq}" for seq in range(1, 51))
        assert rig.receiver.busy["slow"] == 2
        assert await rig.queued("slow") == 50
        rig.receiver.held["slow"].set()
        await until_settled(rig, "slow")
    assert rig.receiver.most["slow"] == 2, "more at once than its concurrency"
    assert sorted(rig.receiver.got("slow")) == sorted(f"e{seq}" for seq in range(1, 51))


async def test_a_failing_delivery_does_not_hold_up_the_next(rig: Rig) -> None:
    await rig.save("a", config={**LATER, "concurrency": 1, "breaker": {"enabled": False}})
    rig.receiver.statuses["a"] = lambda number: 500 if number <= 20 else 200
    await rig.owe("a", *range(1, 31))
    async with forwarding(rig):
        await until(lambda: len(rig.receiver.seen) == 30)

        async def done() -> bool:
            return await rig.queued("a") == 0

        await until(done)
        assert len(await rig.parked("a")) == 20


async def test_pause_and_resume(rig: Rig) -> None:
    await rig.save("a", paused=True)
    await rig.save("b")
    await rig.owe("a", 1, 2)
    await rig.owe("b", 1)
    async with forwarding(rig):
        await until_settled(rig, "b")
        assert (await rig.broker.unacked(subjects.DELIVERIES, "fwd_a"), rig.receiver.got("a")) == ((0, 2), [])
        await rig.save("a", paused=False)
        await until_settled(rig, "a")
        assert sorted(rig.receiver.got("a")) == ["e1", "e2"]


async def test_a_target_paused_while_it_delivers(rig: Rig) -> None:
    """The lane has asked for many more by then: what is under way is finished, of the others none is sent, and all come back."""
    await rig.save("a", config={"concurrency": 2})
    rig.receiver.held["a"] = asyncio.Event()
    await rig.owe("a", *range(1, 5))
    async with forwarding(rig):
        await until(lambda: rig.receiver.busy["a"] == 2)
        await rig.save("a", config={"concurrency": 2}, paused=True)
        await rig.save("b")
        await rig.owe("b", 1)
        await until_settled(rig, "b")  # b came after the pause: that is in force
        rig.receiver.held["a"].set()
        await rig.owe("a", *range(5, 11))

        async def quiet() -> bool:
            return await rig.queued("a") == 8

        await until(quiet)
        await rig.owe("b", 2)
        await until_settled(rig, "b")
        assert len(rig.receiver.got("a")) == 2
        await rig.save("a")
        await until_settled(rig, "a")
    assert sorted(rig.receiver.got("a")) == sorted(f"e{seq}" for seq in range(1, 11))


@pytest.mark.parametrize("queue", ["dead", "discard"])
async def test_what_is_owed_to_a_removed_target(rig: Rig, queue: str) -> None:
    await rig.save("a", paused=True)
    await rig.owe("a", 1, 2, 3)
    async with forwarding(rig):
        await rig.remove("a", queue)
        await until_settled(rig, "a")
    assert rig.receiver.seen == []
    letters = await rig.dead("a")
    results = {result for _, _, result, _ in await rig.outcomes("a")}
    if queue == "dead":
        assert sorted(each.event_id for each in letters) == ["e1", "e2", "e3"]
        assert {each.reason for each in letters} == {"target_removed"}
        assert decode_event(letters[0].delivery.event).event_id == letters[0].event_id
        assert results == {"dead"}
    else:
        assert letters == []
        assert results == {"dropped"}


async def test_a_target_moved_while_it_delivers(rig: Rig) -> None:
    """What is under way ends where it began; what follows goes to the new place."""
    await rig.save("a", path="old", config={"concurrency": 3})
    rig.receiver.held["old"] = asyncio.Event()
    await rig.owe("a", 1, 2, 3)
    async with forwarding(rig):
        await until(lambda: rig.receiver.busy["old"] == 3)
        await rig.save("a", path="new", config={"concurrency": 4})
        await rig.owe("a", 4)
        await until(lambda: rig.receiver.got("new") == ["e4"])
        rig.receiver.held["old"].set()
        await until_settled(rig, "a")
    assert sorted(rig.receiver.got("old")) == ["e1", "e2", "e3"]
    assert rig.receiver.got("new") == ["e4"]
    assert {result for _, _, result, _ in await rig.outcomes("a")} == {"delivered"}


async def test_an_invalid_document_leaves_the_lane_as_it_is(rig: Rig) -> None:
    await rig.save("a")
    await rig.save("b")
    async with forwarding(rig):
        await rig.owe("a", 1)
        await until_settled(rig, "a")
        await rig.put("a", b'{"id": "a", "type": "smoke"}')
        await rig.save("b", path="moved")
        await rig.owe("b", 1)
        await until(lambda: rig.receiver.got("moved") or rig.receiver.got("b"))
        await rig.owe("a", 2)
        await until_settled(rig, "a")
    assert rig.receiver.got("a") == ["e1", "e2"]


async def test_a_deleted_key_closes_the_lane(rig: Rig) -> None:
    await rig.save("a")
    await rig.save("b")
    async with forwarding(rig) as ops:
        await rig.owe("a", 1)
        await until_settled(rig, "a")
        await rig.put("a", b"", {"KV-Operation": "DEL"})

        async def left() -> bool:
            info = await rig.broker.jetstream.consumer_info(subjects.DELIVERIES, "fwd_a")
            return bool(info["num_waiting"] == 0)

        await until(left)
        await rig.owe("a", 2)
        await rig.owe("b", 1)
        await until_settled(rig, "b")
        assert rig.receiver.got("a") == ["e1"]
        assert ops.readiness()[1]["lanes"]["status"] == "up"


async def test_a_missing_consumer_is_named_and_waited_for(rig: Rig) -> None:
    await rig.save("a", lane=False)
    await rig.save("b")
    await rig.owe("a", 1)
    await rig.owe("b", 1)
    async with forwarding(rig) as ops:
        await until(lambda: "a: consumer fwd_a of DELIVERIES" in ops.readiness()[1]["lanes"]["detail"])
        await until_settled(rig, "b")
        await rig.broker.open_lane("a")
        await until_settled(rig, "a")
        assert ops.readiness()[1]["lanes"]["status"] == "up"


# The broker, and the end of the service.


async def test_over_an_outage_everything_is_delivered(rig: Rig, nats: NatsServer) -> None:
    await rig.save("a", config={"concurrency": 4})
    await rig.owe("a", *range(1, 301))
    async with forwarding(rig):
        await until(lambda: len(rig.receiver.seen) > 20)
        nats.restart()
        await until_settled(rig, "a")
        assert set(rig.receiver.got("a")) == {f"e{seq}" for seq in range(1, 301)}
        assert {seq for seq, _, result, _ in await rig.outcomes("a") if result == "delivered"} == set(range(1, 301))
    assert len(rig.receiver.seen) <= 300 + 16, "more was sent again than a lane of 4 can have held"


async def test_while_outcomes_cannot_be_written_nothing_is_sent_twice_and_pulling_stops(rig: Rig) -> None:
    await rig.save("a", config={"concurrency": 1})
    await rig.owe("a", *range(1, 21))
    config = (await rig.broker.jetstream.stream_info(subjects.OUTCOMES))["config"]
    await rig.broker.jetstream.call(f"STREAM.DELETE.{subjects.OUTCOMES}")
    async with forwarding(rig) as ops:
        await until(lambda: ops.readiness()[1]["outcomes"]["status"] == "down")
        sent = len(rig.receiver.seen)
        assert 1 <= sent <= 4
        assert await rig.queued("a") == 20
        await ensure_stream(rig.broker.jetstream, config)
        await until_settled(rig, "a")
        assert sorted(rig.receiver.got("a")) == sorted(f"e{seq}" for seq in range(1, 21)), "one was sent twice"
        assert ops.readiness()[1]["outcomes"]["status"] == "up"


async def test_a_dead_letter_waits_for_its_stream(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.02)
    await rig.save("a")
    rig.receiver.statuses["a"] = lambda _: 404
    config = (await rig.broker.jetstream.stream_info(subjects.DEAD))["config"]
    await rig.broker.jetstream.call(f"STREAM.DELETE.{subjects.DEAD}")
    await rig.owe("a", 1)
    async with forwarding(rig):
        await until(lambda: rig.receiver.seen)
        assert await rig.queued("a") == 1
        await ensure_stream(rig.broker.jetstream, config)
        await until_settled(rig, "a")
    assert len(await rig.dead("a")) == 1
    assert len(rig.receiver.seen) == 1


async def test_leaving_finishes_what_is_under_way(rig: Rig) -> None:
    await rig.save("a")
    rig.receiver.held["a"] = asyncio.Event()
    await rig.owe("a", 1, 2, 3)
    async with forwarding(rig):
        await until(lambda: rig.receiver.busy["a"] == 3)
        asyncio.get_running_loop().call_later(0.1, rig.receiver.held["a"].set)
    assert await rig.settled("a")
    assert [result for _, _, result, _ in await rig.outcomes("a")] == ["delivered"] * 3
    assert len(rig.receiver.seen) == 3


DRAIN_SECONDS = 0.5
"""How long a lane is given for what is under way."""


async def test_the_span_of_an_attempt_that_is_cut_short_is_sent(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.save("a")
    rig.receiver.held["a"] = asyncio.Event()
    await rig.owe("a", 1, trace=f"00-{'ab' * 16}-{'cd' * 8}-01")
    async with collecting() as collector:
        for name, value in collector.environ.items():
            monkeypatch.setenv(name, value)

        async def drained() -> None:
            async with asyncio.timeout(None) as limit, forwarding(rig):
                await until(lambda: rig.receiver.busy["a"] == 1)
                limit.reschedule(asyncio.get_running_loop().time() + DRAIN_SECONDS)

        with pytest.raises(TimeoutError):
            await drained()
        [span] = collector.spans
    assert (span.trace_id, span.parent_id, span.error) == ("ab" * 16, "cd" * 8, "cut short: CancelledError")


# What should not be there.


async def test_what_cannot_be_read_is_dead_and_each_of_it_is_kept(rig: Rig) -> None:
    await rig.save("a")
    bodies = [b"not a delivery", b'{"event":5,"event_seq":1,"revision":1}', b"[" * 100_000, b"", b"\xff"]
    for body in bodies:
        await rig.broker.publisher.store(subjects.deliveries("a"), body)
    await rig.owe("a", 9)
    async with forwarding(rig):
        await until_settled(rig, "a")
    letters = await rig.dead("a")
    assert rig.receiver.got("a") == ["e9"]
    assert [each.reason for each in letters] == ["unreadable"] * 5
    assert sorted(bytes(decode_event(each.delivery.event).data) for each in letters) == sorted(encode(body) for body in bodies)


@pytest.mark.parametrize("status", [404, 500])
async def test_a_delivery_with_no_room_for_its_history_is_dead_without_its_data(rig: Rig, status: int) -> None:
    await rig.save("a", config=LATER)
    rig.receiver.statuses["a"] = lambda _: status
    empty = len(encode(Delivery(event=cast(Any, event(1, b'""')), event_seq=1, revision=1, rule_id="r")))
    await rig.owe("a", 1, data=b'"%s"' % (b"x" * (rig.broker.connection.max_payload - 512 - empty)))
    async with forwarding(rig):
        await until_settled(rig, "a")
    letter = (await rig.dead("a"))[0]
    assert bytes(decode_event(letter.delivery.event).data) == b"null"
    assert "the data is in EVENTS, sequence 1" in letter.detail
    assert [each.status for each in letter.delivery.attempts] == [status]
    assert letter.reason == ("refused" if status == 404 else "output_too_large")
    assert len(rig.receiver.seen) == 1


async def test_a_dead_letter_whose_twin_was_taken_away_is_stored(rig: Rig) -> None:
    await rig.save("a")
    rig.receiver.statuses["a"] = lambda _: 404
    async with forwarding(rig):
        for _ in range(2):
            await rig.owe("a", 1)
            await until_settled(rig, "a")
        assert len(await rig.dead("a")) == 1, "the same death is told once"
        await rig.broker.jetstream.purge(subjects.DEAD)
        await rig.owe("a", 1)
        await until_settled(rig, "a")
        assert len(await rig.dead("a")) == 1


async def test_what_comes_as_the_last_worker_ends_is_not_left_lying() -> None:
    class Immediately:
        """Records at once, and has the next delivery come just then."""

        def __init__(self) -> None:
            self.waiting: list[Pulled] = []
            self.recorded: list[int] = []

        def record(self, record: Any, _: object) -> None:
            self.recorded.append(record.event_seq)
            if self.waiting:
                asyncio.get_running_loop().call_soon(lane._take, self.waiting.pop())

    class Sends:
        async def send(self, *_: object) -> int:
            return 200

    def pulled(seq: int) -> Pulled:
        owed = Delivery(event=cast(Any, event(seq)), event_seq=seq, revision=1)
        message = Message("tas.deliveries.a", f"$JS.ACK.DELIVERIES.fwd_a.1.{seq}.1.1.0", encode(owed))
        return Pulled(cast(Puller, None), message)

    target, _ = targets.check({"id": "a", "type": "http", "endpoint": "http://x/", "config": {"concurrency": 1}})
    outcomes = Immediately()
    outcomes.waiting.append(pulled(2))
    connection = MemoryBroker().connection
    publisher = Publisher(connection)
    statuses = Statuses(StatusBucket(JetStream(connection), publisher))
    lane = Lane(
        connection, publisher, cast(Outcomes, outcomes), statuses, OPEN, lambda: 1, Traces(Tracer(), errors=False), target
    )
    lane._sender = Sends()
    lane._take(pulled(1))
    await until(lambda: outcomes.recorded == [1, 2])
