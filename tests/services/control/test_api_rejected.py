"""The events refused by a schema over HTTP, on a real broker."""

from typing import Any

from msgspec import Raw

from tas_mcp import subjects
from tas_mcp.messages import Event, EventError, RefusedEvent, decode_event, encode, event_key
from tests.services.control.rig import REJECTED, SCHEMAS, Rig

SCHEMA = f"{SCHEMAS}/order.created"


def event(number: int = 1, event_type: str = "order.created", data: bytes = b'{"n":1}') -> Event:
    return Event(event_id=f"e{number}", event_type=event_type, source="s", timestamp=1, accepted_at=1, data=Raw(data))


async def refuse(rig: Rig, given: Event) -> int:
    """What ingest does; the record's sequence."""
    errors = [EventError("/data/n", "no")]
    record = RefusedEvent(event=Raw(encode(given)), errors=errors, schema="order.*", revision=7, at=3.0)
    return (await rig.publisher.store(subjects.rejected(given.event_type), encode(record))).seq


async def stored(rig: Rig) -> list[Event]:
    state = (await rig.jetstream.stream_info(subjects.EVENTS))["state"]
    found = [await rig.jetstream.message(subjects.EVENTS, seq) for seq in range(1, state["last_seq"] + 1)]
    return [decode_event(message.data) for message in found if message]


async def put(rig: Rig, schema: Any, mode: str = "enforce") -> None:
    assert (await rig.call("PUT", SCHEMA, json={"schema": schema, "mode": mode})).status == 200


async def test_list_by_pages_and_by_event_type(rig: Rig) -> None:
    for number in range(1, 6):
        await refuse(rig, event(number, "a b.c" if number % 2 else "order.created"))
    every = (await rig.call("GET", REJECTED)).body
    assert ([each["id"] for each in every["items"]], every["next"]) == (["1", "2", "3", "4", "5"], None)
    first = (await rig.call("GET", f"{REJECTED}?event_type=a%20b.c&limit=2")).body
    assert [each["id"] for each in first["items"]] == ["1", "3"]
    rest = (await rig.call("GET", f"{REJECTED}?event_type=a%20b.c&limit=2&cursor={first['next']}")).body
    assert ([each["id"] for each in rest["items"]], rest["next"]) == (["5"], None)
    assert (await rig.call("GET", f"{REJECTED}?event_type=none")).body == {"items": [], "next": None}
    for query in ("limit=0", "limit=1001", "cursor=x"):
        assert (await rig.call("GET", f"{REJECTED}?{query}")).status == 400


async def test_one_is_read_and_discarded(rig: Rig) -> None:
    seq = await refuse(rig, event())
    found = await rig.call("GET", f"{REJECTED}/{seq}")
    assert found.body == {
        "id": "1",
        "event_type": "order.created",
        "event_id": "e1",
        "event": {
            "event_id": "e1", "event_type": "order.created", "source": "s", "timestamp": 1, "accepted_at": 1, "data": {"n": 1},
        },
        "errors": [{"pointer": "/data/n", "detail": "no"}],
        "schema": "order.*",
        "revision": 7,
        "at": 3.0,
    }  # fmt: skip
    assert (await rig.call("DELETE", f"{REJECTED}/{seq}")).body == {"status": "discarded", "id": "1"}
    for unknown in (str(seq), "99", "0", "x", "1" * 30):
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/resubmit")):
            assert (await rig.call(method, f"{REJECTED}/{unknown}{path}")).status == 404


async def test_an_event_is_accepted_once_its_schema_is_mended(rig: Rig) -> None:
    seq = await refuse(rig, event())
    await put(rig, {"properties": {"n": {"type": "string"}}})
    still = await rig.call("POST", f"{REJECTED}/{seq}/resubmit")
    assert (still.status, still.body["code"]) == (422, "SCHEMA_VIOLATION")
    assert still.body["errors"][0]["pointer"] == "/data/n"
    assert await stored(rig) == []
    await put(rig, {"properties": {"n": {"type": "number"}}})
    answer = await rig.call("POST", f"{REJECTED}/{seq}/resubmit")
    assert (answer.status, answer.body) == (200, {"status": "accepted", "id": "1", "event_id": "e1"})
    assert (await rig.call("GET", f"{REJECTED}/{seq}")).status == 404
    message = await rig.jetstream.message(subjects.EVENTS, 1)
    assert message is not None
    assert message.subject == "tas.events.order.created"
    assert message.headers["Nats-Msg-Id"] == event_key("s", "e1")
    [found] = await stored(rig)
    assert (found.event_id, bytes(found.data), found.timestamp) == ("e1", b'{"n":1}', 1)
    assert found.accepted_at > 1_000_000_000_000_000_000, "it is accepted now"


async def test_an_event_that_was_stored_meanwhile_is_a_duplicate(rig: Rig) -> None:
    seqs = [await refuse(rig, event()) for _ in range(2)]
    await rig.call("POST", f"{REJECTED}/{seqs[0]}/resubmit")
    again = await rig.call("POST", f"{REJECTED}/{seqs[1]}/resubmit")
    assert (again.status, again.body["duplicate"]) == (200, True)
    assert len(await stored(rig)) == 1
    assert (await rig.call("GET", REJECTED)).body["items"] == []


async def test_a_schema_that_warns_lets_it_pass(rig: Rig) -> None:
    seq = await refuse(rig, event())
    await put(rig, False, "warn")
    assert (await rig.call("POST", f"{REJECTED}/{seq}/resubmit")).status == 200


async def test_the_classic_form_is_judged_by_what_it_holds(rig: Rig) -> None:
    seq = await refuse(rig, event(data=b'"{\\"n\\":1}"'))
    await put(rig, {"type": "object"})
    assert (await rig.call("POST", f"{REJECTED}/{seq}/resubmit")).status == 200


async def test_a_schema_that_cannot_be_read_accepts_nothing(rig: Rig) -> None:
    seq, other = await refuse(rig, event()), await refuse(rig, event(2, "user.created"))
    await rig.publisher.store(subjects.bucket_key("tas_schemas", "order.*"), b"{")
    answer = await rig.call("POST", f"{REJECTED}/{seq}/resubmit")
    assert (answer.status, answer.body["code"]) == (409, "CONFLICT")
    assert "order.*" in answer.body["detail"]
    assert (await rig.call("POST", f"{REJECTED}/{other}/resubmit")).status == 200


async def test_many_are_submitted_and_those_still_refused_are_counted(rig: Rig) -> None:
    for number in range(1, 6):
        await refuse(rig, event(number, "order.created" if number != 3 else "user.created", b'{"n":%d}' % number))
    await put(rig, {"properties": {"n": {"not": {"const": 2}}}})
    first = (await rig.call("POST", f"{REJECTED}/resubmit?limit=4&event_type=order.created")).body
    assert (first["accepted"], first["failed"], first["next"]) == (3, 1, None)
    assert [(each["id"], each["code"]) for each in first["failures"]] == [("2", "SCHEMA_VIOLATION")]
    rest = (await rig.call("POST", f"{REJECTED}/resubmit?limit=1")).body
    assert (rest["accepted"], rest["failed"], rest["next"]) == (0, 1, "3")
    last = (await rig.call("POST", f"{REJECTED}/resubmit?cursor={rest['next']}")).body
    assert last == {"accepted": 1, "failed": 0, "failures": [], "next": None}
    assert [each["id"] for each in (await rig.call("GET", REJECTED)).body["items"]] == ["2"]


async def test_a_record_that_cannot_be_read_can_be_seen_and_discarded(rig: Rig) -> None:
    for broken in (b"{", encode(RefusedEvent(event=Raw(b"{}"), errors=[], schema="a", revision=1, at=1.0))):
        seq = (await rig.publisher.store(subjects.rejected("order.created"), broken)).seq
        [item] = (await rig.call("GET", REJECTED)).body["items"]
        assert (item["event_type"], item["event"]) == ("order.created", None)
        assert item["detail"]
        assert (await rig.call("POST", f"{REJECTED}/{seq}/resubmit")).status == 409
        assert (await rig.call("DELETE", f"{REJECTED}/{seq}")).status == 200
