"""One event on its way through the pipeline: what is published in which order, and when it is acked."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from services.process import pipeline
from services.process.pipeline import Pipeline
from services.process.rulebook import Rules
from tas_mcp.documents import Document
from tas_mcp.errors import Rejected, Unavailable
from tas_mcp.messages import PubAck, RoutedTo, decode_event, encode, webhook_id
from tas_mcp.tracing import Tracer
from tests.services.process.rig import Hand, Notes, Published, Stand, as_outcomes, as_publisher, document, event, rule
from tests.shared.rig import until

NOW = 1700.5
ACK, NAK = b"+ACK", b"-NAK"


class Bench:
    """A pipeline between stand-ins."""

    def __init__(self, rules: Rules, full: Sequence[str] = ()) -> None:
        self.stand = Stand()
        self.notes = Notes([], [])
        self.hand = Hand()
        self.pipeline = Pipeline(
            as_publisher(self.stand), as_outcomes(self.notes), rules, full.__contains__, Tracer(), lambda: NOW
        )

    def handle(
        self, data: bytes | None = None, *, seq: int = 5, delivered: int = 1, subject: str = "tas.events.x", inbox: str = ""
    ) -> None:
        data = encode(event()) if data is None else data
        self.pipeline.handle(self.hand.pulled(data, seq, delivered, subject, inbox))

    def stored(self) -> Published:
        return self.stand.answer(PubAck("S", 1))


async def bench(*documents: Document, full: Sequence[str] = ()) -> Bench:
    rules = Rules()
    await rules.use(documents)
    return Bench(rules, full)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "AGAIN_SECONDS", 0.01)


async def test_no_match_is_recorded_and_then_acked() -> None:
    found = await bench(document("a", rules=[rule("gt", 1000)]))
    found.handle()
    assert found.stand.published == []
    assert found.hand.answers == []
    routed = found.notes.last()
    assert (routed.event_seq, routed.event_id, routed.accepted_at, routed.at, routed.targets) == (5, "e1", 7, NOW, [])
    found.notes.records[0][1]()
    assert found.hand.answers == [ACK]


async def test_who_waits_is_told_what_was_decided_and_the_deliveries_name_the_inbox() -> None:
    found = await bench(document("a", 3), document("b", 4), full=["b"])
    found.handle(inbox="tas.notices.i.1")
    assert {each.subject: each.delivery.inbox for each in found.stand.published if "deliveries" in each.subject} == {
        "tas.deliveries.a": "tas.notices.i.1"
    }
    found.stored()
    assert found.notes.told == []
    found.stored()
    assert found.notes.told == [("tas.notices.i.1", found.notes.last())]
    found.handle(seq=6)
    assert [each.delivery.inbox for each in found.stand.published if "deliveries" in each.subject] == [""]
    found.stored()
    found.stored()
    assert len(found.notes.told) == 1


async def test_one_delivery_for_each_match_then_the_record_then_the_ack() -> None:
    found = await bench(document("a", 3, rules=[rule("gt", 100)]), document("b c", 4), document("d", rules=[rule("lt", 0)]))
    found.handle(encode(event(data=b'{"amount":  150, "x": 1.0}')))
    published = {each.subject: each for each in found.stand.published}
    assert set(published) == {"tas.deliveries.a", "tas.deliveries.b=20c"}
    assert {each.msg_id for each in published.values()} == {"5:a", "5:b c"}
    delivery = published["tas.deliveries.a"].delivery
    assert (delivery.event_seq, delivery.revision, delivery.rule_id, delivery.redrives) == (5, 3, "gt-100", 0)
    assert delivery.attempts == []
    assert bytes(delivery.event) == encode(event(data=b'{"amount":  150, "x": 1.0}'))
    found.stored()
    assert found.notes.records == [], "one delivery is not stored yet"
    found.stored()
    assert found.hand.answers == []
    assert sorted(found.notes.last().targets, key=lambda each: each.target_id) == [
        RoutedTo("a", 3, "gt-100", "queued"),
        RoutedTo("b c", 4, "", "queued"),
    ]
    found.notes.records[0][1]()
    assert found.hand.answers == [ACK]


async def test_a_duplicate_counts_as_stored() -> None:
    """The event was here before, and its worker died before the ack."""
    found = await bench(document("a"))
    found.handle(delivered=2)
    found.stand.answer(PubAck("DELIVERIES", 1, duplicate=True))
    assert found.notes.last().targets[0].result == "queued"


@pytest.mark.parametrize("sent", [True, False])
async def test_what_is_not_stored_is_published_again_under_its_id(sent: bool) -> None:
    found = await bench(document("a"))
    if not sent:
        found.stand.refusals.append(Unavailable("away"))
    found.handle()
    if sent:
        found.stand.answer(Unavailable("no ack in time"))
    await until(lambda: found.stand.published)
    assert found.hand.answers == []
    assert found.stored().msg_id == "5:a"
    assert found.notes.last().targets[0].result == "queued"


async def test_a_delivery_that_is_too_large_becomes_a_dead_letter() -> None:
    found = await bench(document("a", 3, rules=[rule("gt", 100)]))
    found.handle()
    found.stand.answer(Rejected("TOO_LARGE", "1000 bytes; the broker takes 900"))
    published = found.stored()
    letter = published.letter
    assert (published.subject, published.msg_id) == ("tas.dead.a", "5:a:d0")
    assert (letter.target_id, letter.event_id, letter.reason, letter.at) == ("a", "e1", "output_too_large", NOW)
    assert letter.detail == "1000 bytes; the broker takes 900"
    assert decode_event(letter.delivery.event) == event()
    assert (letter.delivery.event_seq, letter.delivery.revision, letter.delivery.rule_id) == (5, 3, "gt-100")
    assert found.notes.last().targets == [RoutedTo("a", 3, "gt-100", "output_too_large")]
    found.notes.records[0][1]()
    assert found.hand.answers == [ACK]


async def test_a_dead_letter_that_is_too_large_goes_without_its_data() -> None:
    found = await bench(document("a"))
    found.handle()
    found.stand.answer(Rejected("TOO_LARGE", "too large"))
    found.stand.answer(Rejected("TOO_LARGE", "too large again"))
    letter = found.stored().letter
    assert bytes(decode_event(letter.delivery.event).data) == b"null"
    assert letter.detail == "too large; too large again: the data is in EVENTS, sequence 5"
    assert len(found.notes.records) == 1


@pytest.mark.parametrize("delivered", [5, 6, 7])
async def test_the_sixth_time_is_poison(delivered: int) -> None:
    found = await bench(document("a"))
    found.handle(delivered=delivered)
    published = found.stored()
    if delivered == 5:
        assert published.subject == "tas.deliveries.a"
        return
    letter = published.letter
    assert (published.subject, letter.target_id, letter.reason) == ("tas.dead._process", "_process", "poison")
    assert letter.detail == f"handed out {delivered} times and never done"
    assert decode_event(letter.delivery.event) == event()
    assert found.notes.last().targets == [RoutedTo("_process", 0, "", "poison")]
    found.notes.records[0][1]()
    assert found.hand.answers == [ACK]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"{}", b"[" * 100_000])
@pytest.mark.parametrize("delivered", [1, 6])
async def test_what_is_no_event_is_set_aside_with_its_bytes(data: bytes, delivered: int) -> None:
    found = await bench(document("a"))
    found.handle(data, delivered=delivered, subject="tas.events.not=ours.x")
    published = found.stored()
    kept = decode_event(published.letter.delivery.event)
    assert published.subject == "tas.dead._process"
    assert published.letter.reason == ("unreadable" if delivered == 1 else "poison")
    assert (kept.event_id, kept.event_type) == ("seq-5", "not=ours.x")
    assert bytes(kept.data) == encode(data)


async def test_a_full_queue_makes_a_dead_letter_or_drops() -> None:
    found = await bench(document("dead"), document("drop", config={"overflow": "drop"}), document("room"), full=("dead", "drop"))
    found.handle()
    published = {each.subject: each for each in found.stand.published}
    assert set(published) == {"tas.dead.dead", "tas.deliveries.room"}
    letter = published["tas.dead.dead"].letter
    assert (letter.reason, letter.detail) == ("queue_full", "the target's queue is full (max_queue)")
    assert decode_event(letter.delivery.event) == event()
    found.stored()
    found.stored()
    results = {each.target_id: each.result for each in found.notes.last().targets}
    assert results == {"dead": "queue_full", "drop": "dropped", "room": "queued"}


def reshaping(**transform: Any) -> dict[str, Any]:
    return {"rules": [{"id": "r", "transform": transform}]}


async def test_a_transform_makes_the_delivery_of_its_target_alone() -> None:
    found = await bench(
        document("data", **reshaping(add_fields={"data.tier": "gold"})),
        document("plain"),
        document("text", **reshaping(template="{{ event.data.amount }} EUR", content_type="text/plain")),
    )
    found.handle(encode(event(data=b'{"amount":  150}')))
    data, plain, text = (each.delivery for each in sorted(found.stand.published, key=lambda each: each.subject))
    assert bytes(decode_event(data.event).data) == b'{"amount":150,"tier":"gold"}'
    assert (data.body, data.content_type, data.rule_id, data.event_seq) == (None, None, "r", 5)
    assert bytes(plain.event) == encode(event(data=b'{"amount":  150}'))
    assert (text.body, text.content_type) == ("150 EUR", "text/plain")
    assert decode_event(text.event) == event(data=b'{"amount":  150}')
    assert {webhook_id(decode_event(each.event)) for each in (data, plain, text)} == {webhook_id(event())}


async def test_a_transform_that_fails_is_dead_with_the_reason_and_the_input() -> None:
    found = await bench(document("a", 3, **reshaping(rename_fields={"data.amount": "data.sum"}, add_fields={"data.sum.x": 1})))
    found.handle()
    published = found.stored()
    letter = published.letter
    assert (published.subject, published.msg_id) == ("tas.dead.a", "5:a:d0")
    assert (letter.reason, letter.target_id, letter.event_id) == ("transform_failed", "a", "e1")
    assert letter.detail == "add_fields: data.sum.x cannot be written: a number has no member 'x'"
    assert decode_event(letter.delivery.event) == event()
    assert (letter.delivery.body, letter.delivery.revision, letter.delivery.rule_id) == (None, 3, "r")
    assert found.notes.last().targets == [RoutedTo("a", 3, "r", "transform_failed")]
    found.notes.records[0][1]()
    assert found.hand.answers == [ACK]


async def test_dead_letters_of_transformed_events() -> None:
    """What a full queue turned away can be put back as it is; of what was too large the input is kept."""
    found = await bench(document("full", **reshaping(template="x")), document("large", **reshaping(template="y")), full=("full",))
    found.handle()
    full = found.stand.answer(PubAck("S", 1))
    assert (full.letter.reason, full.letter.delivery.body) == ("queue_full", "x")
    found.stand.answer(Rejected("TOO_LARGE", "too large"))
    large = found.stored()
    assert (large.letter.reason, large.letter.delivery.body) == ("output_too_large", None)


async def test_what_is_dropped_is_not_transformed() -> None:
    found = await bench(document("a", config={"overflow": "drop"}, **reshaping(add_fields={"data.amount.x": 1})), full=("a",))
    found.handle()
    assert found.notes.last().targets == [RoutedTo("a", 1, "r", "dropped")]


async def test_only_dropped_is_recorded_too() -> None:
    found = await bench(document("a", config={"overflow": "drop"}), full=("a",))
    found.handle()
    assert found.stand.published == []
    assert found.notes.last().targets == [RoutedTo("a", 1, "", "dropped")]


async def test_what_nobody_foresaw_gives_the_event_back() -> None:
    class Exploding:
        def route(self, _: object) -> None:
            raise KeyError("a bug")

    found = await bench()
    found.pipeline._rules.book = Exploding()  # type: ignore[assignment]
    found.handle()
    assert found.hand.answers == [NAK]
    found.handle(delivered=6)
    assert found.stored().letter.reason == "poison"


async def test_events_wait_in_order_while_the_publisher_is_crowded() -> None:
    class Crowded:
        """Has room for one event at a time, when the test says so."""

        def __init__(self, stand: Stand) -> None:
            self.publish = stand.publish
            self.crowded = True
            self.turn = asyncio.Semaphore(0)

        async def room(self) -> None:
            await self.turn.acquire()

    rules = Rules()
    await rules.use([document("a")])
    found = Bench(rules)
    crowded = Crowded(found.stand)
    found.pipeline = Pipeline(as_publisher(crowded), as_outcomes(found.notes), rules, lambda _: False, Tracer(), lambda: NOW)
    for seq in (1, 2, 3):
        found.handle(seq=seq)
    assert found.stand.published == []
    crowded.turn.release()
    await until(lambda: found.stand.published)
    crowded.crowded = False
    found.handle(seq=4)
    assert [each.msg_id for each in found.stand.published] == ["1:a"], "it overtook those that wait"
    for _ in range(3):
        crowded.turn.release()
    await until(lambda: len(found.stand.published) == 4)
    assert [each.msg_id for each in found.stand.published] == ["1:a", "2:a", "3:a", "4:a"]
    found.handle(seq=5)
    assert found.stand.published[-1].msg_id == "5:a", "nobody waits: it goes at once"
