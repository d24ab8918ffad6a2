"""The audit log: every change has its record, and no change waits for the log or fails with it."""

import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from services.control.rejected import Refusal
from services.control.requests import each_of
from tas_mcp import status, subjects, telemetry
from tas_mcp.audit import RECORD_SECONDS, SYSTEM, Audit
from tas_mcp.broker import BrokerError
from tas_mcp.chain import Fault, Verification, fingerprint
from tas_mcp.errors import Rejected, Unavailable
from tas_mcp.messages import EventError, RefusedEvent, encode
from tests.nats_server import NatsServer
from tests.services.control.conftest import ready
from tests.services.control.rig import DEAD, REJECTED, SCHEMAS, TARGETS, Rig, event, running, target, until
from tests.shared.rig import linked

LOG = "/api/v1/audit/log"
SECRET = "whsec_" + "A" * 32
GONE = status.Status(gone=True, last_error_at=7.0)


@pytest.fixture
async def quiet(nats: NatsServer) -> AsyncIterator[Rig]:
    """The service after the first round of its janitor, which would make a lost stream anew."""
    async with running(nats.url, janitor_seconds=3600.0) as found:
        await until(lambda: ready(found))
        yield found


async def log(rig: Rig, query: str = "limit=1000") -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await rig.call("GET", f"{LOG}?{query}")).body["items"]
    return items


async def told(rig: Rig) -> list[tuple[str, str, str]]:
    return [(each["kind"], each["action"], each["id"]) for each in await log(rig)]


async def done(rig: Rig, method: str, path: str, **options: Any) -> Any:
    answer = await rig.call(method, path, **options)
    assert answer.status < 300, answer
    return answer


async def refuse(rig: Rig) -> int:
    """What ingest does; the record's sequence."""
    refused = RefusedEvent(event=Raw(encode(event())), errors=[EventError("/data", "no")], schema="a.*", revision=1, at=1.0)
    return (await rig.publisher.store(subjects.rejected("a.b"), encode(refused))).seq


def failures() -> float:
    found = re.search(rb"^mcp_audit_failures_total (\S+)", telemetry.render("")[0], re.MULTILINE)
    return float(found[1]) if found else 0.0


async def test_every_change_of_a_target_is_recorded_with_who_and_why(rig: Rig) -> None:
    before = time.time()
    made = await done(rig, "POST", f"{TARGETS}?comment=first", json=target("orders", config={"signing_secret": SECRET}))
    await done(rig, "PUT", f"{TARGETS}/orders", json=target("orders", name="new"))
    await done(rig, "PUT", f"{TARGETS}/other", json=target("other"))
    for switch in ("disable", "enable", "pause", "resume"):
        await done(rig, "POST", f"{TARGETS}/orders/{switch}")
    revision = int(made.headers["ETag"].strip('"'))
    await done(rig, "POST", f"{TARGETS}/orders/rollback", json={"revision": revision})
    await done(rig, "DELETE", f"{TARGETS}/other?comment=bye")
    actions = ["created", "updated", "created", "disabled", "enabled", "paused", "resumed", "rolled_back", "deleted"]
    found = await log(rig)
    assert [each["action"] for each in found] == actions
    assert {each["kind"] for each in found} == {"targets"}
    first, last = found[0], found[-1]
    assert before <= first.pop("at") <= time.time()
    expected = {"kind": "targets", "id": "orders", "author": "anonymous", "comment": "first", "details": {"revision": revision}}
    assert expected.items() <= first.items()
    assert (first["seq"], first["action"], first["address"]) == (1, "created", "127.0.0.1")
    assert (last["id"], last["comment"], last["details"]["queue"]) == ("other", "bye", "dead")
    assert SECRET not in json.dumps(found)


async def test_a_record_holds_the_hashes_of_what_was_changed_as_the_api_shows_it(rig: Rig) -> None:
    await done(rig, "POST", TARGETS, json=target("orders", config={"signing_secret": SECRET}))
    first = await shown(rig)
    await done(rig, "PUT", f"{TARGETS}/orders", json=target("orders", name="new"))
    second = await shown(rig)
    await done(rig, "DELETE", f"{TARGETS}/orders")
    await done(rig, "PUT", f"{SCHEMAS}/a.b", json={"schema": True})
    hashes = [(each["before"], each["after"]) for each in await log(rig)]
    assert hashes[:3] == [("", first), (first, second), (second, "")]
    assert [bool(part) for part in hashes[3]] == [False, True]


async def shown(rig: Rig) -> str:
    """The hash of the target ``orders`` as people read it."""
    document = (await done(rig, "GET", f"{TARGETS}/orders")).body
    return fingerprint({name: value for name, value in document.items() if name != "status"})


async def test_a_record_holds_the_request_id_that_the_caller_gave_or_the_log_shows(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    await done(rig, "POST", TARGETS, json=target("a"), headers={"X-Request-Id": "mine"})
    await done(rig, "POST", TARGETS, json=target("b"))
    given, made = [each["request_id"] for each in await log(rig)]
    assert given == "mine"
    assert f"request_id={made}" in capsys.readouterr().out


async def test_replicas_write_chains_of_their_own_into_one_log(rig: Rig, nats: NatsServer) -> None:
    async with running(nats.url) as other:
        await until(lambda: ready(other))
        for number in range(6):
            await done((rig, other)[number % 3 == 0], "POST", TARGETS, json=target(f"t{number}"))
    found = await log(rig)
    assert sorted(each["count"] for each in found) == [1, 1, 2, 2, 3, 4]
    assert len({each["writer"] for each in found}) == 2
    assert faults(found) == []
    found[2]["author"] = "somebody else"
    assert [fault.seq for fault in faults(found)] == [3, 5]


def faults(items: list[dict[str, Any]]) -> list[Fault]:
    """What is wrong with a log as the API gives it."""
    verification = Verification()
    return [fault for item in items for fault in verification.take(item)]


async def test_what_was_refused_is_not_recorded(rig: Rig) -> None:
    assert (await rig.call("POST", TARGETS, json={"id": "x"})).status == 422
    assert (await rig.call("DELETE", f"{TARGETS}/none")).status == 404
    assert (await rig.call("PUT", f"{TARGETS}/x", json=target("x"), headers={"If-Match": '"7"'})).status == 412
    assert await log(rig) == []


async def test_all_targets_rolled_back_have_a_record_each(rig: Rig) -> None:
    made = await done(rig, "POST", TARGETS, json=target("a"))
    await done(rig, "PUT", f"{TARGETS}/a", json=target("a", name="new"))
    await done(rig, "POST", TARGETS, json=target("b"))
    await done(rig, "POST", "/api/v1/revisions/rollback", json={"revision": int(made.headers["ETag"].strip('"'))})
    assert (await told(rig))[3:] == [("targets", "rolled_back", "a"), ("targets", "deleted", "b")]


async def test_targets_from_files_name_their_file(nats: NatsServer, tmp_path: Path) -> None:
    path = tmp_path / "targets.json"
    path.write_text(json.dumps([target("a")]))
    async with running(nats.url, targets_file=str(path)) as rig:
        [found] = await until(lambda: log(rig))
        assert (found["action"], found["id"], found["author"]) == ("created", "a", "file:targets.json")


async def test_changes_of_schemas_are_recorded(rig: Rig) -> None:
    for method in ("PUT", "PUT", "DELETE"):
        await done(rig, method, f"{SCHEMAS}/a.b", json={"schema": True})
    assert await told(rig) == [("schemas", action, "a.b") for action in ("created", "updated", "deleted")]


async def test_dead_letters_are_recorded_one_by_one_or_as_a_count(rig: Rig) -> None:
    await done(rig, "POST", TARGETS, json=target("orders"))
    seqs = [await rig.bury("orders" if seq < 5 else "lost", seq) for seq in range(1, 7)]
    await done(rig, "POST", f"{DEAD}/{seqs[0]}/redrive?comment=mended")
    await done(rig, "DELETE", f"{DEAD}/{seqs[1]}")
    await done(rig, "POST", f"{DEAD}/redrive?dry_run=true")
    await done(rig, "POST", f"{DEAD}/redrive?reason=attempts_exhausted")
    await done(rig, "POST", f"{DEAD}/discard?target=lost")
    await done(rig, "POST", f"{DEAD}/discard?target=lost")
    found = await log(rig, "kind=dead_letters")
    assert [(each["action"], each["id"], each["comment"]) for each in found] == [
        ("redriven", "1", "mended"), ("discarded", "2", ""), ("redriven", "", ""), ("discarded", "", ""),
    ]  # fmt: skip
    assert found[0]["details"] == {"target_id": "orders", "event_id": "e1"}
    wanted = {"target_id": None, "reason": "attempts_exhausted", "event_type": None}
    assert found[2]["details"] == {"count": 2, "failed": 2, **wanted}
    assert found[3]["details"] == {"count": 2, "failed": 0, "target_id": "lost", "reason": None, "event_type": None}


async def test_what_was_done_before_the_broker_went_away_is_told() -> None:
    told: list[tuple[int, int]] = []

    async def act(refusal: Refusal) -> None:
        if refusal.seq == 2:
            raise Rejected("CONFLICT", "no")
        if refusal.seq == 3:
            raise Unavailable("away")

    async def tell(count: int, failed: int) -> None:
        told.append((count, failed))

    with pytest.raises(Unavailable):
        await each_of([Refusal(seq, "a") for seq in (1, 2, 3, 4)], act, tell)
    assert told == [(1, 1)]


async def test_rejected_events_are_recorded(rig: Rig) -> None:
    seqs = [await refuse(rig) for _ in range(3)]
    await done(rig, "POST", f"{REJECTED}/{seqs[0]}/resubmit")
    await done(rig, "DELETE", f"{REJECTED}/{seqs[1]}")
    await done(rig, "POST", f"{REJECTED}/resubmit?event_type=a.b")
    found = await log(rig)
    assert [(each["kind"], each["action"], each["id"]) for each in found] == [
        ("rejected", "resubmitted", "1"), ("rejected", "discarded", "2"), ("rejected", "resubmitted", ""),
    ]  # fmt: skip
    assert found[0]["details"] == {"event_type": "a.b", "event_id": "e1"}
    assert found[2]["details"] == {"count": 1, "failed": 0, "event_type": "a.b"}


async def test_a_target_found_gone_is_recorded_once_by_all_replicas(rig: Rig, nats: NatsServer) -> None:
    key = subjects.bucket_key(subjects.STATUS_BUCKET, "orders")
    await done(rig, "POST", TARGETS, json=target("orders"))
    async with running(nats.url) as other:
        await until(lambda: ready(other))
        await rig.publisher.store(key, status.encode(GONE))
        found = await until(lambda: log(rig, "cursor=2"))
    assert [(each["at"], each["action"], each["id"], each["author"]) for each in found] == [(7.0, "gone", "orders", "system")]
    assert faults(await log(rig)) == []
    async with running(nats.url) as later:
        await until(lambda: ready(later))
        changed = msgspec.structs.replace(GONE, last_error_at=8.0)
        await done(rig, "POST", f"{TARGETS}/orders/enable")
        await rig.publisher.store(key, status.encode(changed))
        await until(lambda: log(rig, "cursor=5"))
    assert [action for _, action, _ in await told(rig)] == ["created", "gone", "enabled", "revived", "gone"]


async def test_the_log_is_read_by_pages_and_by_kind(rig: Rig) -> None:
    for name in "ab":
        await done(rig, "PUT", f"{SCHEMAS}/{name}", json={"schema": True})
        await done(rig, "PUT", f"{TARGETS}/{name}", json=target(name))
    first = (await rig.call("GET", f"{LOG}?kind=targets&limit=1")).body
    assert [each["id"] for each in first["items"]] == ["a"]
    rest = (await rig.call("GET", f"{LOG}?kind=targets&limit=1&cursor={first['next']}")).body
    assert ([each["id"] for each in rest["items"]], rest["next"]) == (["b"], None)
    assert (await rig.call("GET", f"{LOG}?kind=none")).body == {"items": [], "next": None}
    for query in ("limit=0", "cursor=x"):
        assert (await rig.call("GET", f"{LOG}?{query}")).status == 400


async def test_a_record_that_cannot_be_read_does_not_hide_the_others(rig: Rig) -> None:
    await rig.publisher.store(subjects.audit("targets"), b"{")
    await done(rig, "POST", TARGETS, json=target("a"))
    assert await told(rig) == [("targets", "unreadable", ""), ("targets", "created", "a")]


async def test_a_change_stands_where_the_log_is_lost(quiet: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    await quiet.jetstream.call(f"STREAM.DELETE.{subjects.AUDIT}")
    before = failures()
    await done(quiet, "POST", f"{TARGETS}?comment=why", json=target("orders", config={"signing_secret": SECRET}))
    logged = capsys.readouterr().out
    assert "not in the audit log" in logged
    assert all(part in logged for part in ("'action': 'created'", "'id': 'orders'", "'comment': 'why'"))
    assert SECRET not in logged
    assert (await quiet.call("GET", f"{TARGETS}/orders")).status == 200
    assert failures() == before + 1
    await done(quiet, "PUT", f"{SCHEMAS}/a.b", json={"schema": True})
    assert failures() == before + 2


async def test_what_could_not_be_written_is_told_as_soon_as_there_is_a_log_and_leaves_no_gap(quiet: Rig) -> None:
    await done(quiet, "POST", TARGETS, json=target("a"))
    config = (await quiet.jetstream.stream_info(subjects.AUDIT))["config"]
    await quiet.jetstream.call(f"STREAM.UPDATE.{subjects.AUDIT}", {**config, "discard": "new", "max_msgs": 1})
    for name in "bc":
        await done(quiet, "POST", TARGETS, json=target(name))
    await quiet.jetstream.call(f"STREAM.UPDATE.{subjects.AUDIT}", config)
    await done(quiet, "POST", TARGETS, json=target("d"))
    found = await log(quiet)
    assert [(each["action"], each["id"], each["details"].get("records")) for each in found] == [
        ("created", "a", None), ("lost", "", 2), ("created", "d", None),
    ]  # fmt: skip
    assert faults(found) == []


async def test_a_record_whose_ack_was_lost_does_not_look_edited(nats: NatsServer) -> None:
    """It is stored, but its writer cannot know, and so does not go on behind it."""
    async with linked(nats.url) as broker:
        await broker.lay_out()
        async with broker.connection.subscribed(subjects.ALL_AUDIT, lambda _: None):
            audit = Audit(broker.publisher, "control")
            await audit.record("targets", "created", "a", SYSTEM)
            nats.pause()
            assert not await audit.record("targets", "created", "b", SYSTEM)
            nats.resume()
            assert await audit.record("targets", "created", "c", SYSTEM)
        stored = await broker.messages(subjects.AUDIT)
    found = [json.loads(message.data) for message in stored]
    assert [each["id"] for each in found] == ["a", "b", "", "c"]
    assert [(each["count"], each["action"]) for each in found] == [(1, "created"), (2, "created"), (1, "lost"), (2, "created")]
    assert faults([{**each, "seq": seq} for seq, each in enumerate(found, 1)]) == []


async def test_nobody_can_delete_or_purge_the_log(quiet: Rig) -> None:
    await done(quiet, "POST", TARGETS, json=target("a"))
    with pytest.raises(BrokerError):
        await quiet.jetstream.call(f"STREAM.MSG.DELETE.{subjects.AUDIT}", {"seq": 1})
    with pytest.raises(BrokerError):
        await quiet.jetstream.purge(subjects.AUDIT)
    assert len(await log(quiet)) == 1


async def test_a_change_stands_where_the_log_is_full(quiet: Rig) -> None:
    config = (await quiet.jetstream.stream_info(subjects.AUDIT))["config"]
    await quiet.jetstream.call(f"STREAM.UPDATE.{subjects.AUDIT}", {**config, "discard": "new", "max_msgs": 1})
    await done(quiet, "POST", TARGETS, json=target("a"))
    before = failures()
    await done(quiet, "POST", TARGETS, json=target("b"))
    assert failures() == before + 1
    assert await told(quiet) == [("targets", "created", "a")]


async def test_a_log_that_does_not_answer_holds_a_change_up_for_a_few_seconds_at_most(quiet: Rig) -> None:
    await quiet.jetstream.call(f"STREAM.DELETE.{subjects.AUDIT}")
    before = failures()
    async with quiet.connection.subscribed(subjects.ALL_AUDIT, lambda _: None):
        started = time.monotonic()
        await done(quiet, "POST", TARGETS, json=target("a"))
        took = time.monotonic() - started
    assert failures() == before + 1
    assert RECORD_SECONDS <= took < 10 * RECORD_SECONDS
