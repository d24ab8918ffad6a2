"""Dead letters over HTTP, on a real broker."""

import msgspec
from msgspec import Raw

from tas_mcp import subjects
from tas_mcp.messages import Attempt, Event, decode_delivery, decode_event, encode
from tests.services.control.rig import DEAD, TARGETS, Rig, delivery, event, target


async def test_list_by_pages_and_by_target(rig: Rig) -> None:
    for seq in range(1, 6):
        await rig.bury("a" if seq % 2 else "b c", seq)
    every = (await rig.call("GET", DEAD)).body
    assert ([each["id"] for each in every["items"]], every["next"]) == (["1", "2", "3", "4", "5"], None)
    first = (await rig.call("GET", f"{DEAD}?target=a&limit=2")).body
    assert [each["id"] for each in first["items"]] == ["1", "3"]
    rest = (await rig.call("GET", f"{DEAD}?target=a&limit=2&cursor={first['next']}")).body
    assert ([each["id"] for each in rest["items"]], rest["next"]) == (["5"], None)
    assert [each["id"] for each in (await rig.call("GET", f"{DEAD}?target=b%20c")).body["items"]] == ["2", "4"]
    assert (await rig.call("GET", f"{DEAD}?target=none")).body == {"items": [], "next": None}
    for query in ("limit=0", "limit=1001", "cursor=x", "cursor=0"):
        assert (await rig.call("GET", f"{DEAD}?{query}")).status == 400


async def test_one(rig: Rig) -> None:
    seq = await rig.bury("orders", 7)
    found = await rig.call("GET", f"{DEAD}/{seq}")
    assert found.status == 200
    assert found.body["event"] == {
        "event_id": "e7",
        "event_type": "a.b",
        "source": "s",
        "timestamp": 1,
        "accepted_at": 1,
        "data": {"n": 1},
    }
    assert found.body["attempts"] == [{"number": 1, "at": 1.0, "duration_ms": 2.0, "status": 500, "error": "no"}]
    assert {key: found.body[key] for key in ("id", "target_id", "event_id", "reason", "detail", "at")} == {
        "id": str(seq),
        "target_id": "orders",
        "event_id": "e7",
        "reason": "attempts_exhausted",
        "detail": "no",
        "at": 3.0,
    }
    for unknown in ("99", "0", "x", "1" * 30):
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/redrive")):
            assert (await rig.call(method, f"{DEAD}/{unknown}{path}")).status == 404


async def test_a_redrive_starts_anew_and_takes_the_letter_away(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target())
    seq = await rig.bury("orders", 7)
    answer = await rig.call("POST", f"{DEAD}/{seq}/redrive")
    assert (answer.status, answer.body) == (200, {"status": "redriven", "id": str(seq), "target_id": "orders"})
    [message] = await rig.jetstream.last_of(subjects.DELIVERIES, [subjects.deliveries("orders")])
    redriven = decode_delivery(message.data)
    assert (redriven.attempts, redriven.redrives, redriven.event_seq) == ([], 1, 7)
    assert message.headers is not None
    assert message.headers["Nats-Msg-Id"] == "7:orders:r1"
    assert (await rig.call("GET", f"{DEAD}/{seq}")).status == 404


async def test_a_redrive_needs_its_target(rig: Rig) -> None:
    seq = await rig.bury("orders", 7)
    answer = await rig.call("POST", f"{DEAD}/{seq}/redrive")
    assert (answer.status, answer.body["code"]) == (409, "CONFLICT")
    assert "orders" in answer.body["detail"]
    assert (await rig.call("GET", f"{DEAD}/{seq}")).status == 200


async def test_an_event_set_aside_goes_back_to_the_events_as_often_as_asked(rig: Rig) -> None:
    for number in (1, 2):
        seq = await rig.bury(subjects.POISON, 7, reason="poison")
        assert (await rig.call("POST", f"{DEAD}/{seq}/redrive")).status == 200
        state = (await rig.jetstream.stream_info(subjects.EVENTS))["state"]
        assert state["messages"] == number
    message = await rig.jetstream.message(subjects.EVENTS, 2)
    assert message is not None
    assert message.subject == subjects.events("a.b")
    assert decode_event(message.data) == event(7)


async def test_data_that_did_not_fit_into_the_letter_is_taken_from_the_events(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target())
    bare = Event(**{**msgspec.structs.asdict(event(1)), "data": Raw(b"null")})
    body = msgspec.structs.replace(delivery(1), event=Raw(encode(bare)))
    detail = "no; too large: the data is in EVENTS, sequence 1"
    seq = await rig.bury("orders", 1, delivery=body, detail=detail)
    assert (await rig.call("POST", f"{DEAD}/{seq}/redrive")).status == 409
    await rig.publisher.store(subjects.events("a.b"), encode(event(1)))
    assert (await rig.call("POST", f"{DEAD}/{seq}/redrive")).status == 200
    [message] = await rig.jetstream.last_of(subjects.DELIVERIES, [subjects.deliveries("orders")])
    assert decode_event(decode_delivery(message.data).event) == event(1)


async def test_many_are_redriven_and_those_that_cannot_be_are_counted(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target())
    for seq in range(1, 6):
        await rig.bury("orders" if seq != 3 else "other", seq)
    first = (await rig.call("POST", f"{DEAD}/redrive?limit=4")).body
    assert (first["redriven"], first["failed"], first["next"]) == (3, 1, "5")
    assert first["failures"][0]["id"] == "3"
    rest = (await rig.call("POST", f"{DEAD}/redrive?target=orders&cursor={first['next']}")).body
    assert rest == {"matched": 1, "redriven": 1, "failed": 0, "failures": [], "next": None}
    assert [each["id"] for each in (await rig.call("GET", DEAD)).body["items"]] == ["3"]
    assert await rig.stored(subjects.DELIVERIES, subjects.deliveries("orders")) == 4


async def test_filters_and_a_dry_run_first(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target())
    for seq in range(1, 11):
        other = msgspec.structs.replace(event(seq), event_type="c.d")
        owed = delivery(seq) if seq % 2 else msgspec.structs.replace(delivery(seq), event=Raw(encode(other)))
        await rig.bury("orders", seq, reason="expired" if seq > 4 else "refused", delivery=owed)
    meant = "reason=expired&event_type=c.d"
    found = (await rig.call("GET", f"{DEAD}?{meant}&limit=2")).body
    assert ([each["id"] for each in found["items"]], found["next"]) == (["6", "8"], "9")
    dry = (await rig.call("POST", f"{DEAD}/redrive?{meant}&dry_run=true")).body
    assert dry == {"matched": 3, "redriven": 0, "failed": 0, "failures": [], "next": None}
    assert len((await rig.call("GET", DEAD)).body["items"]) == 10
    done = (await rig.call("POST", f"{DEAD}/redrive?{meant}")).body
    assert (done["matched"], done["redriven"]) == (3, 3)
    assert await rig.stored(subjects.DELIVERIES, subjects.deliveries("orders")) == 3
    dry = (await rig.call("POST", f"{DEAD}/discard?reason=refused&dry_run=true")).body
    assert (dry["matched"], dry["discarded"]) == (4, 0)
    gone = (await rig.call("POST", f"{DEAD}/discard?reason=refused")).body
    assert gone == {"matched": 4, "discarded": 4, "failed": 0, "failures": [], "next": None}
    assert [each["id"] for each in (await rig.call("GET", DEAD)).body["items"]] == ["5", "7", "9"]
    assert (await rig.call("POST", f"{DEAD}/discard?dry_run=perhaps")).status == 400


async def test_discard(rig: Rig) -> None:
    seq = await rig.bury("orders", 7)
    assert (await rig.call("DELETE", f"{DEAD}/{seq}")).body == {"status": "discarded", "id": str(seq)}
    assert (await rig.call("GET", f"{DEAD}/{seq}")).status == 404


async def test_a_letter_that_cannot_be_read_can_be_seen_and_discarded(rig: Rig) -> None:
    seq = (await rig.publisher.store(subjects.dead("orders"), b"{")).seq
    assert (await rig.call("GET", DEAD)).body["items"][0]["reason"] == "unreadable"
    assert (await rig.call("POST", f"{DEAD}/{seq}/redrive")).status == 409
    assert (await rig.call("DELETE", f"{DEAD}/{seq}")).status == 200


REFUSED = [{"id": "r", "transform": {"add_fields": {"data.n.x": 1}}}]
MENDED = [{"id": "r", "transform": {"template": "n={{ event.data.n }}", "content_type": "text/plain"}}]


async def test_a_failed_transform_is_made_anew_by_a_redrive(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target(rules=REFUSED))
    owed = msgspec.structs.replace(delivery(7), rule_id="r")
    seq = await rig.bury("orders", 7, reason="transform_failed", delivery=owed)
    answer = await rig.call("POST", f"{DEAD}/{seq}/redrive")
    assert (answer.status, answer.body["code"]) == (409, "CONFLICT")
    assert "the transform of rule 'r' still fails: add_fields: data.n.x cannot be written" in answer.body["detail"]
    await rig.call("PUT", f"{TARGETS}/orders", json=target(rules=[{"id": "other"}]))
    assert "has no rule 'r' any more" in (await rig.call("POST", f"{DEAD}/{seq}/redrive")).body["detail"]
    await rig.call("PUT", f"{TARGETS}/orders", json=target(rules=MENDED))
    assert (await rig.call("POST", f"{DEAD}/{seq}/redrive")).status == 200
    [message] = await rig.jetstream.last_of(subjects.DELIVERIES, [subjects.deliveries("orders")])
    redriven = decode_delivery(message.data)
    assert (redriven.body, redriven.content_type, redriven.redrives) == ("n=1", "text/plain", 1)
    assert decode_event(redriven.event) == event(7)


async def test_what_was_transformed_already_is_redriven_as_it_is(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target(rules=MENDED))
    owed = msgspec.structs.replace(delivery(7), rule_id="r", body="as it was", attempts=[Attempt(number=1, at=1, duration_ms=2)])
    for reason in ("attempts_exhausted", "output_too_large"):
        seq = await rig.bury("orders", 7, reason=reason, delivery=owed)
        assert (await rig.call("GET", f"{DEAD}/{seq}")).body["body"] == "as it was"
        assert (await rig.call("POST", f"{DEAD}/{seq}/redrive")).status == 200
        [message] = await rig.jetstream.last_of(subjects.DELIVERIES, [subjects.deliveries("orders")])
        assert decode_delivery(message.data).body == "as it was"


async def test_a_rule_that_transforms_no_more_lets_the_event_go_as_it_came(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target(rules=[{"id": "r"}]))
    owed = msgspec.structs.replace(delivery(7), rule_id="r")
    seq = await rig.bury("orders", 7, reason="transform_failed", delivery=owed)
    assert (await rig.call("POST", f"{DEAD}/{seq}/redrive")).status == 200
    [message] = await rig.jetstream.last_of(subjects.DELIVERIES, [subjects.deliveries("orders")])
    assert decode_event(decode_delivery(message.data).event) == event(7)
