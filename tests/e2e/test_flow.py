"""The whole path, process by process: an event in, a delivery out, and what happens when something on the way fails."""

import asyncio
import base64
import hashlib
import re
import time
from itertools import pairwise
from typing import Any

import pytest
from standardwebhooks import Webhook

from tests.e2e.conftest import World, arrived, event
from tests.e2e.receiver import Reply, first
from tests.e2e.system import BATCH, DEAD, EVENTS, TARGETS, until
from tests.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHORT = {"schedule": ["200ms", "300ms"]}
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


# One event, one batch.


async def test_an_event_is_delivered_with_the_right_body_and_headers(world: World) -> None:
    await world.system.put(world.target("plain", config={"signing_secret": SECRET, "headers": {"X-Team": "blue"}}))
    given = event("plain", data={"n": 1.50, "text": "Grüße"})
    answer = await world.system.send(given)
    assert answer.status == 200
    assert answer.body == {"event_id": given["event_id"], "status": "accepted"}
    assert answer.headers["Location"] == f"{EVENTS}/{given['event_id']}"
    await arrived(world, "plain", given["event_id"])
    [found] = world.receiver.of("plain")
    assert found.json == {**given, "data": '{"n": 1.5, "text": "Gr\\u00fc\\u00dfe"}'}  # the text is the sender's own
    assert found.headers["content-type"] == "application/json"
    assert found.headers["x-team"] == "blue"
    assert found.headers["user-agent"].startswith("tas-mcp/")
    key = hashlib.blake2b(f"e2e\0{given['event_id']}".encode(), digest_size=16).hexdigest()
    assert found.webhook_id == f"evt_{key}"
    assert abs(found.at - int(found.headers["webhook-timestamp"])) < 60
    Webhook(SECRET).verify(found.body, dict(found.headers))


async def test_a_cloudevent_goes_out_as_it_came(world: World) -> None:
    await world.system.put(world.target("ce", config={"format": "cloudevents-binary"}))
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "c1",
        "ce-source": "e2e",
        "ce-type": "ce.made",
        "ce-subject": "%C3%BC",
        "ce-n": "5",
    }
    answer = await world.system.call(
        "POST", world.system.ingest + EVENTS, data=b"text", headers={**headers, "Content-Type": "text/plain; charset=utf-8"}
    )
    assert answer.status == 200

    async def any_delivery() -> bool:
        return bool(world.receiver.of("ce"))

    await until(any_delivery)
    [found] = world.receiver.of("ce")
    assert {name: value for name, value in found.headers.items() if name.startswith("ce-")} == headers
    assert (found.body, found.headers["content-type"]) == (b"text", "text/plain; charset=utf-8")


async def test_an_answer_may_wait_for_what_becomes_of_the_event(world: World) -> None:
    async def sent(name: str) -> Any:
        answer = await world.system.call("POST", world.system.ingest + EVENTS, json=event(name), headers={"Prefer": "wait=30"})
        assert (answer.status, answer.headers["Preference-Applied"]) == (200, "wait")
        return answer.body

    assert (await sent("nobody"))["deliveries"] == []
    world.receiver.script("waited", first(2, Reply(503)))
    await world.system.put(world.target("waited", config={"retry": SHORT}))
    await world.system.put({**world.target("refused"), "rules": world.target("waited")["rules"]})
    world.receiver.script("refused", first(1, Reply(400)))
    found = await sent("waited")
    assert (found["complete"], found["deliveries"]) == (
        True,
        [
            {"target_id": "refused", "status": "dead", "attempts": 1, "response_status": 400},
            {"target_id": "waited", "status": "delivered", "attempts": 3, "response_status": 200},
        ],
    )


async def test_the_data_format_delivers_the_payload_byte_for_byte(world: World) -> None:
    await world.system.put(world.target("raw", config={"format": "data"}))
    body = b'{"event_type": "raw.made", "source": "e2e", "data": {"b" : 1e2,  "a":[ ]}}'
    answer = await world.system.call(
        "POST", world.system.ingest + EVENTS, data=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status == 200

    async def any_delivery() -> bool:
        return bool(world.receiver.of("raw"))

    await until(any_delivery)
    assert world.receiver.of("raw")[0].body == b'{"b" : 1e2,  "a":[ ]}'


async def test_an_event_sent_twice_is_delivered_once(world: World) -> None:
    await world.system.put(world.target("twice"))
    given = event("twice")
    assert (await world.system.send(given)).body == {"event_id": given["event_id"], "status": "accepted"}
    again = await world.system.send({**given, "data": "other"})
    assert again.body == {"event_id": given["event_id"], "status": "accepted", "duplicate": True}
    await world.system.drained()
    assert world.receiver.ids("twice") == [given["event_id"]]


async def test_a_batch_is_taken_entry_by_entry(world: World) -> None:
    await world.system.put(world.target("batch"))
    good = [event("batch") for _ in range(3)]
    entries = [good[0], {**event("batch"), "source": ""}, good[1], good[0], good[2]]
    answer = await world.system.call("POST", world.system.ingest + BATCH, json=entries)
    assert answer.status == 200
    counts = {key: answer.body[key] for key in ("processed", "accepted", "duplicates", "rejected")}
    assert counts == {"processed": 5, "accepted": 4, "duplicates": 1, "rejected": 1}
    assert [each["status"] for each in answer.body["results"]] == ["accepted", "rejected", "accepted", "accepted", "accepted"]
    assert answer.body["results"][1]["error"]["pointer"] == "/source"
    await world.system.drained()
    assert sorted(world.receiver.ids("batch")) == sorted(each["event_id"] for each in good)


async def test_each_request_of_a_connection_has_one_answer(world: World) -> None:
    """Refused events, which are answered at once, between good ones, pipelined and cut anywhere."""
    given = [b'{"event_type": "no.target", "source": "%s"}' % source for source in (b"", b"s", b"", b"", b"s")]
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    requests = b"".join(head % (EVENTS.encode(), len(body), body) for body in given)
    for cut in (0, 40, 200):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.system.http_port)
        for part in (requests[:cut], requests[cut:]):
            writer.write(part)
            await writer.drain()
        writer.write_eof()
        answers = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"400", b"200", b"400", b"400", b"200"]


# Rules and changes of targets.


async def test_transforms_make_what_each_target_gets(world: World) -> None:
    def rules(transform: dict[str, Any]) -> dict[str, Any]:
        own = {"field": "event_type", "operator": "eq", "value": "transform.made"}
        return {"rules": [{"id": "only", "conditions": [own], "transform": transform}]}

    fields = {"rename_fields": {"data.user": "data.customer"}, "add_fields": {"data.total": "{{ event.data.n | times: 2 }}"}}
    text = {"template": "Order of {{ event.data.n }}", "content_type": "text/plain; charset=utf-8"}
    await world.system.put(world.target("t-fields", config={"format": "data"}, **rules(fields)))
    await world.system.put(world.target("t-text", **rules(text)))
    await world.system.put(world.target("t-jsonata", config={"format": "data"}, **rules({"jsonata": "{'doubled': n * 2}"})))
    await world.system.put(world.target("t-fails", **rules({"add_fields": {"data.n.x": 1}})))
    await world.system.put(world.target("t-plain", config={"format": "data"}, **rules({})))
    given = {**event("transform"), "event_type": "transform.made", "data": {"n": 21, "user": "Ann"}}
    assert (await world.system.send(given)).status == 200
    await world.system.drained()
    bodies = {name: world.receiver.of(name)[0] for name in ("t-fields", "t-text", "t-jsonata", "t-plain")}
    assert bodies["t-fields"].json == {"n": 21, "customer": "Ann", "total": 42}
    assert bodies["t-jsonata"].json == {"doubled": 42}
    assert bodies["t-plain"].json == {"n": 21, "user": "Ann"}
    assert (bodies["t-text"].body, bodies["t-text"].headers["content-type"]) == (b"Order of 21", "text/plain; charset=utf-8")
    assert len({found.webhook_id for found in bodies.values()}) == 1
    assert world.receiver.of("t-fails") == []
    [letter] = await world.system.dead_letters("t-fails")
    assert (letter["reason"], letter["event"]["data"]) == ("transform_failed", {"n": 21, "user": "Ann"})


async def test_rules_decide_who_gets_an_event(world: World) -> None:
    def rules(*conditions: dict[str, Any]) -> dict[str, Any]:
        own = {"field": "event_type", "operator": "eq", "value": "rules.made"}
        return {"rules": [{"id": "only", "conditions": [own, *conditions]}]}

    await world.system.put(world.target("rules-all", **rules()))
    await world.system.put(world.target("rules-big", **rules({"field": "data.amount", "operator": "gt", "value": 100})))
    eu = {"field": "metadata.region", "operator": "eq", "value": "eu"}
    await world.system.put(world.target("rules-not-eu", **rules({**eu, "negate": True})))
    small = await world.sent("rules", data={"amount": 100}, metadata={"region": "eu"})
    big = await world.sent("rules", data={"amount": 100.5}, metadata={"region": "eu"})
    far = await world.sent("rules", data='{"amount": 3}', metadata={"region": "us"})
    await world.system.drained()
    assert sorted(world.receiver.ids("rules-all")) == sorted([small, big, far])
    assert world.receiver.ids("rules-big") == [big]
    assert world.receiver.ids("rules-not-eu") == [far]


async def test_a_change_is_in_force_for_the_next_event(world: World) -> None:
    """Each event is sent right after the API has answered: the odd ones are for the target, the even ones are not."""
    system, own = world.system, world.target("change")
    url = f"{TARGETS}/change"
    none = {"rules": [{"id": "own", "conditions": [{"field": "event_type", "operator": "eq", "value": "nothing"}]}]}
    expected = []
    for turn in range(3):
        created = await system.change("POST", TARGETS, json=own)
        assert (created.status, created.body) == (201, {"status": "created", "target_id": "change"}), turn
        expected.append(await world.sent("change"))
        assert (await system.change("PUT", url, json={**own, **none})).body == {"status": "updated", "target_id": "change"}
        await world.sent("change")
        assert (await system.change("PUT", url, json=own)).body == {"status": "updated", "target_id": "change"}
        expected.append(await world.sent("change"))
        assert (await system.change("POST", url + "/disable")).status == 200
        await world.sent("change")
        assert (await system.change("POST", url + "/enable")).status == 200
        expected.append(await world.sent("change"))
        await arrived(world, "change", *expected)
        assert (await system.change("DELETE", url)).body == {"status": "deleted", "target_id": "change"}
        await world.sent("change")
        await until(lambda: gone(world, "change"))
    await system.drained()
    assert sorted(world.receiver.ids("change")) == sorted(expected)


async def gone(world: World, name: str) -> bool:
    """Whether the target is away, its tombstone too: only then it can be made again."""
    answer = await world.system.change("POST", TARGETS, json=world.target(name))
    if answer.status == 409:
        return False
    assert answer.status == 201
    await world.system.change("DELETE", f"{TARGETS}/{name}")
    return True


async def test_what_a_paused_target_is_owed_waits(world: World) -> None:
    few = {"concurrency": 1}  # what forward has asked the broker for still comes: with this, four
    await world.system.put(world.target("paused", config=few))
    await arrived(world, "paused", await world.sent("paused"))
    await world.system.put(world.target("paused", config=few, paused=True))

    async def waits() -> bool:
        """Pausing is heard by forward a moment later: send until one stays."""
        await world.sent("paused")
        status = (await world.system.call("GET", f"{TARGETS}/paused")).body["status"]
        return bool(status["state"] == "paused" and status["pending"] >= 3)

    await until(waits)
    last = await world.sent("paused")
    assert last not in world.receiver.ids("paused")
    resumed = await world.system.call("POST", f"{TARGETS}/paused/resume")
    assert (resumed.status, resumed.body) == (200, {"status": "updated", "target_id": "paused"})
    await arrived(world, "paused", last)
    await world.system.drained()
    assert len(world.receiver.ids("paused")) == len(set(world.receiver.ids("paused")))


async def test_a_disabled_target_takes_no_new_events_and_gets_what_it_is_owed(world: World) -> None:
    await world.system.put(world.target("off", paused=True))
    owed = await world.sent("off")

    async def queued() -> bool:
        return bool((await world.system.call("GET", f"{TARGETS}/off")).body["status"]["pending"] == 1)

    await until(queued)
    await world.system.change("POST", f"{TARGETS}/off/disable")
    await world.sent("off")
    await world.system.change("POST", f"{TARGETS}/off/resume")
    await arrived(world, "off", owed)
    await world.system.drained()
    assert world.receiver.ids("off") == [owed]


async def test_a_target_is_tested_by_a_real_attempt(world: World) -> None:
    await world.system.put(world.target("trial", enabled=False))
    answer = await world.system.call("POST", f"{TARGETS}/trial/test", json={"event": event("trial", event_id="probe")})
    assert answer.status == 200
    assert answer.body.pop("duration_ms") > 0
    assert answer.body == {"delivered": True, "status": 200, "error": "", "matched": True, "rule_id": "own"}
    made_up = await world.system.call("POST", f"{TARGETS}/trial/test")
    assert (made_up.body["delivered"], made_up.body["matched"]) == (True, False)
    assert [found.json["event_type"] for found in world.receiver.of("trial")] == ["trial.made", "tas.test"]


async def test_the_queue_of_a_deleted_target_becomes_dead_letters(world: World) -> None:
    await world.system.put(world.target("left", paused=True))
    ids = [await world.sent("left") for _ in range(3)]

    async def queued() -> bool:
        return bool((await world.system.call("GET", f"{TARGETS}/left")).body["status"]["pending"] == 3)

    await until(queued)
    await world.system.call("DELETE", f"{TARGETS}/left")

    async def dead() -> list[dict[str, Any]] | None:
        letters = await world.system.dead_letters("left")
        return letters if len(letters) == 3 else None

    letters = await until(dead)
    assert sorted(letter["event_id"] for letter in letters) == sorted(ids)
    assert {letter["reason"] for letter in letters} == {"target_removed"}
    assert world.receiver.ids("left") == []


# Failures of targets.


async def test_a_failed_delivery_is_tried_again(world: World) -> None:
    await world.system.put(world.target("again", config={"retry": SHORT}))
    world.receiver.script("again", first(2, Reply(500)))
    event_id = await world.sent("again")
    await arrived(world, "again", event_id)
    tries = world.receiver.of("again")
    assert [each.status for each in tries] == [500, 500, 200]
    assert len({(each.webhook_id, each.body) for each in tries}) == 1
    waits = [after.at - before.at for before, after in pairwise(tries)]
    assert waits[0] >= 0.2 * 0.8
    assert waits[1] >= 0.3 * 0.8
    assert max(waits) < 20
    for each in tries:  # the time of the attempt, against replays: not that of the event
        assert abs(each.at - int(each.headers["webhook-timestamp"])) < 60


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("reset", Reply(0)),
        ("hangs", Reply(200, delay=30)),
        ("later", Reply(503, headers="retry-after: 1\r\n")),
        ("many", Reply(429)),
    ],
)
async def test_it_is_tried_again_after(world: World, name: str, reply: Reply) -> None:
    await world.system.put(world.target(name, config={"retry": SHORT, "timeout": "300ms" if name == "hangs" else "15s"}))
    world.receiver.script(name, first(1, reply))
    event_id = await world.sent(name)

    async def again() -> bool:
        return len(world.receiver.of(name)) >= 2

    await until(again)
    one, two, *_ = world.receiver.of(name)
    assert one.webhook_id == two.webhook_id
    assert one.event_id == two.event_id == event_id
    assert two.at - one.at >= (1.0 if name == "later" else 0.15)


@pytest.mark.parametrize("status", [400, 404, 302])
async def test_a_refusal_is_final(world: World, status: int) -> None:
    name = f"refuses-{status}"
    await world.system.put(world.target(name, config={"retry": SHORT}))
    world.receiver.script(name, lambda _: Reply(status, headers="location: http://127.0.0.1:1/\r\n"))
    await world.sent(name)
    letters = await until(lambda: world.system.dead_letters(name))
    assert [letter["reason"] for letter in letters] == ["refused"]
    assert [each["status"] for each in letters[0]["attempts"]] == [status]
    assert len(world.receiver.of(name)) == 1


async def test_after_the_last_attempt_it_is_dead_and_can_be_redriven(world: World) -> None:
    await world.system.put(world.target("dead", config={"retry": {"schedule": ["100ms", "100ms"]}}))
    world.receiver.script("dead", lambda _: Reply(500))
    given = event("dead")
    await world.system.send(given)
    [letter] = await until(lambda: world.system.dead_letters("dead"))
    assert (letter["target_id"], letter["event_id"], letter["reason"]) == ("dead", given["event_id"], "attempts_exhausted")
    assert {key: letter["event"][key] for key in given} == given
    assert [(each["number"], each["status"]) for each in letter["attempts"]] == [(1, 500), (2, 500), (3, 500)]
    assert all(each["error"] and each["at"] > 0 and each["duration_ms"] > 0 for each in letter["attempts"])
    assert len(world.receiver.of("dead")) == 3
    world.receiver.script("dead", lambda _: Reply(200))
    answer = await world.system.call("POST", f"{DEAD}/{letter['id']}/redrive")
    assert answer.status == 200, answer.body
    await arrived(world, "dead", given["event_id"])
    assert len({(each.webhook_id, each.body) for each in world.receiver.of("dead")}) == 1
    assert await world.system.dead_letters("dead") == []
    assert (await world.system.call("GET", f"{DEAD}/{letter['id']}")).status == 404


async def test_a_dead_and_a_slow_target_delay_no_other(world: World) -> None:
    """All three get the same events; the healthy one has them as fast as if it were alone."""
    only = world.target("isolated")["rules"]
    down = f"http://127.0.0.1:{free_port()}/"
    await world.system.put(world.target("is-down", endpoint=down, rules=only, config={"retry": SHORT}))
    await world.system.put(world.target("is-slow", rules=only, config={"retry": SHORT, "timeout": "5s", "concurrency": 2}))
    await world.system.put(world.target("is-well", rules=only))
    world.receiver.script("is-slow", lambda _: Reply(200, delay=1.0))
    began = time.time()
    entries = [event("isolated") for _ in range(300)]
    await world.system.call("POST", world.system.ingest + BATCH, json=entries)
    await arrived(world, "is-well", *(each["event_id"] for each in entries))
    assert max(each.at for each in world.receiver.of("is-well")) - began < 60
    assert len(world.receiver.of("is-slow")) < 150
    for name in ("is-slow", "is-down"):
        await world.system.call("DELETE", f"{TARGETS}/{name}", params={"queue": "discard"})
    await world.system.drained()
