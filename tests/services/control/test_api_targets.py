"""The targets over HTTP, on a real broker."""

import asyncio
import io
import time

import pytest

from tas_mcp import status, subjects, targets
from tas_mcp.status import Status
from tests.services.control.rig import TARGETS, Rig, target, until

SECRET = "whsec_" + "A" * 32
ORDERS = f"{TARGETS}/orders"


async def test_a_target_is_created_read_changed_and_deleted(rig: Rig) -> None:
    created = await rig.call("POST", TARGETS, json=target(name="Orders"))
    assert created.status == 201
    assert created.body == {"status": "created", "target_id": "orders"}
    assert created.headers["Location"] == ORDERS

    read = await rig.call("GET", ORDERS)
    assert read.status == 200
    assert read.headers["ETag"] == created.headers["ETag"]
    assert read.body["name"] == "Orders"
    assert read.body["enabled"] is True
    assert read.body["status"] == {
        "state": "active",
        "breaker": "closed",
        "pending": 0,
        "parked": 0,
        "dead": 0,
        "oldest_pending_seconds": None,
        "healthy": None,
        "checked_at": None,
        "last_success": None,
        "last_error": None,
    }

    changed = await rig.call("PUT", ORDERS, json={**read.body, "id": "another", "paused": True})
    assert (changed.status, changed.body) == (200, {"status": "updated", "target_id": "orders"})
    assert changed.headers["ETag"] != created.headers["ETag"]
    assert (await rig.call("GET", ORDERS)).body["status"]["state"] == "paused"

    deleted = await rig.call("DELETE", ORDERS)
    assert (deleted.status, deleted.body) == (200, {"status": "deleted", "target_id": "orders"})
    assert (await rig.call("GET", ORDERS)).status == 404
    assert (await rig.call("POST", TARGETS, json=target())).status == 201


async def test_what_forward_found_out_is_shown_and_enable_forgets_it(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target())
    found = Status(gone=True, open_until=time.time() + 60, last_success=5.0, last_error="no", last_error_at=7.0)
    await rig.publisher.store(subjects.bucket_key(subjects.STATUS_BUCKET, "orders"), status.encode(found))
    shown = (await rig.call("GET", ORDERS)).body["status"]
    assert (shown["state"], shown["breaker"], shown["last_success"]) == ("gone", "open", 5.0)
    assert shown["last_error"] == {"detail": "no", "at": 7.0}
    assert (await rig.call("POST", f"{ORDERS}/disable")).status == 200
    assert (await rig.call("GET", ORDERS)).body["status"]["state"] == "gone"
    assert (await rig.call("POST", f"{ORDERS}/enable")).status == 200
    shown = (await rig.call("GET", ORDERS)).body["status"]
    assert (shown["state"], shown["breaker"], shown["last_success"]) == ("active", "closed", 5.0)


async def test_what_a_health_check_found_is_shown_as_long_as_there_is_one(rig: Rig) -> None:
    check = {"health_check": {"path": "/healthz"}}
    await rig.call("POST", TARGETS, json=target(config=check))
    found = Status(healthy=False, checked_at=7.0)
    await rig.publisher.store(subjects.bucket_key(subjects.STATUS_BUCKET, "orders"), status.encode(found))
    shown = (await rig.call("GET", ORDERS)).body["status"]
    assert (shown["healthy"], shown["checked_at"]) == (False, 7.0)
    await rig.call("PUT", ORDERS, json=target())
    shown = (await rig.call("GET", ORDERS)).body["status"]
    assert (shown["healthy"], shown["checked_at"]) == (None, None)


async def test_a_target_made_anew_has_no_past(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target())
    await rig.publisher.store(subjects.bucket_key(subjects.STATUS_BUCKET, "orders"), status.encode(Status(gone=True)))
    await rig.call("DELETE", ORDERS)
    assert (await rig.call("POST", TARGETS, json=target())).status == 201
    assert (await rig.call("GET", ORDERS)).body["status"]["state"] == "active"


async def test_the_consumer_is_made_with_the_target(rig: Rig) -> None:
    await rig.call("PUT", f"{TARGETS}/a%20b%2Fc.d", json=target())
    config = (await rig.consumer("a b/c.d"))["config"]
    assert config["filter_subject"] == subjects.deliveries("a b/c.d")
    assert (config["ack_policy"], config["ack_wait"], config["max_ack_pending"]) == ("explicit", 60_000_000_000, 2000)
    assert (await rig.call("GET", f"{TARGETS}/a%20b%2Fc.d")).body["id"] == "a b/c.d"


async def test_lists(rig: Rig) -> None:
    for name in ("c", "a", "b"):
        await rig.call("POST", TARGETS, json=target(name))
    found = await rig.call("GET", TARGETS)
    assert list(found.body) == ["a", "b", "c"]
    assert found.body["a"]["endpoint"] == "http://localhost:1/hook"
    first = await rig.call("GET", f"{TARGETS}?format=list&limit=2")
    assert [each["id"] for each in first.body["items"]] == ["a", "b"]
    rest = await rig.call("GET", f"{TARGETS}?format=list&limit=2&cursor={first.body['next']}")
    assert ([each["id"] for each in rest.body["items"]], rest.body["next"]) == (["c"], None)


async def test_preconditions(rig: Rig) -> None:
    assert (await rig.call("PUT", ORDERS, json=target(), headers={"If-Match": '"1"'})).status == 412
    first = await rig.call("PUT", ORDERS, json=target(), headers={"If-None-Match": "*"})
    assert first.status == 200
    tag = {"If-Match": first.headers["ETag"]}
    assert (await rig.call("PUT", ORDERS, json=target(name="x"), headers=tag)).status == 200
    stale = await rig.call("PUT", ORDERS, json=target(name="y"), headers=tag)
    assert (stale.status, stale.body["code"]) == (412, "PRECONDITION_FAILED")
    assert (await rig.call("DELETE", ORDERS, headers=tag)).status == 412
    assert (await rig.call("PUT", ORDERS, json=target(), headers={"If-None-Match": "*"})).status == 412
    assert (await rig.call("GET", ORDERS)).body["name"] == "x"
    assert (await rig.call("DELETE", ORDERS, headers={"If-Match": "*"})).status == 200


async def test_of_many_who_create_the_same_id_one_does(rig: Rig) -> None:
    answers = await asyncio.gather(*(rig.call("POST", TARGETS, json=target()) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7
    answers = await asyncio.gather(*(rig.call("PUT", ORDERS, json=target(name=str(n))) for n in range(4)))
    assert [answer.status for answer in answers] == [200] * 4


@pytest.mark.parametrize(
    ("options", "status", "code", "pointer"),
    [
        ({"data": b"{}"}, 415, "UNSUPPORTED_MEDIA_TYPE", None),
        ({"data": b'{"id": ', "headers": {"Content-Type": "application/json"}}, 400, "INVALID_REQUEST", ""),
        ({"data": b"", "headers": {"Content-Type": "application/json"}}, 400, "INVALID_REQUEST", ""),
        ({"data": io.BytesIO(b" " * 1_048_577), "headers": {"Content-Type": "application/json"}}, 413, "TOO_LARGE", None),
        ({"json": target(endpoint="ftp://x")}, 422, "INVALID_TARGET", "/endpoint"),
        ({"json": {"type": "webhook", "endpoint": "http://x"}}, 422, "INVALID_TARGET", "/id"),
        ({"json": target("_process")}, 422, "INVALID_TARGET", "/id"),
        ({"json": target(rules=[{"conditions": [{"field": "a b", "operator": "eq", "value": 1}]}])}, 422, "INVALID_TARGET", None),
        ({"json": []}, 422, "INVALID_TARGET", ""),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_refused(rig: Rig, options: dict[str, object], status: int, code: str, pointer: str | None) -> None:
    answer = await rig.call("POST", TARGETS, **options)
    assert (answer.status, answer.body["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    if pointer is not None:
        assert answer.body["errors"][0]["pointer"] == pointer
    assert (await rig.call("GET", TARGETS)).body == {}


async def test_what_is_not_there(rig: Rig) -> None:
    for method in ("GET", "DELETE"):
        assert (await rig.call(method, ORDERS)).status == 404
    assert (await rig.call("POST", f"{ORDERS}/pause")).status == 404
    wrong = await rig.call("PATCH", ORDERS)
    assert (wrong.status, wrong.body["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert "PUT" in wrong.headers["Allow"]
    for query in ("format=xml", "format=list&limit=0", "format=list&limit=1001", "limit=x"):
        assert (await rig.call("GET", f"{TARGETS}?{query}")).status == 400


async def test_secrets_are_masked_and_kept(rig: Rig) -> None:
    config = {"signing_secret": SECRET, "headers": {"Authorization": "Bearer 0123456789", "X-A": "b"}}
    await rig.call("POST", TARGETS, json=target(config=config))
    read = (await rig.call("GET", ORDERS)).body
    assert read["config"]["signing_secret"] == "***AAAA"
    assert read["config"]["headers"] == {"Authorization": "***6789", "X-A": "b"}
    assert SECRET not in str((await rig.call("GET", TARGETS)).body)
    assert (await rig.call("PUT", ORDERS, json={**read, "name": "new"})).status == 200
    assert (await rig.call("POST", f"{ORDERS}/disable")).status == 200
    [message] = await rig.jetstream.last_of("KV_tas_targets", [subjects.bucket_key("tas_targets", "orders")])
    stored = targets.decode(message.data)
    assert isinstance(stored, targets.HttpTarget)
    assert stored.delivery.signing_secret == SECRET
    assert stored.delivery.headers["Authorization"] == "Bearer 0123456789"
    assert (stored.name, stored.enabled) == ("new", False)


async def test_a_document_that_cannot_be_read_can_be_seen_replaced_and_deleted(rig: Rig) -> None:
    await rig.publisher.store(subjects.bucket_key("tas_targets", "orders"), b"{")
    assert "invalid" in (await rig.call("GET", TARGETS)).body["orders"]
    assert (await rig.call("GET", ORDERS)).body["status"]["state"] in ("invalid", "waiting")
    assert (await rig.call("PUT", ORDERS, json=target())).status == 200
    assert (await rig.call("GET", ORDERS)).body["endpoint"] == "http://localhost:1/hook"


async def test_an_answer_waits_until_every_replica_has_the_revision(rig: Rig) -> None:
    async def name_is(name: str) -> bool:
        return bool((await rig.call("GET", ORDERS)).body["name"] == name)

    rig.announce(0, "slow")
    rig.announce(10_000, "fast")
    await until(lambda: asyncio.sleep(0.05, True))
    began = time.monotonic()
    late = await rig.call("POST", TARGETS, json=target())
    assert late.body == {"status": "created", "target_id": "orders", "in_force": False}
    assert 0.9 < time.monotonic() - began < 30

    rig.announce(0, "slow")
    waiting = asyncio.create_task(rig.call("PUT", ORDERS, json=target(name="x")))
    await until(lambda: name_is("x"))
    assert not waiting.done()
    rig.announce(10_000, "slow")
    assert "in_force" not in (await waiting).body


async def test_a_replica_that_left_is_not_waited_for(rig: Rig) -> None:
    rig.announce(0, "gone")
    rig.announce(0, "gone", leaving=True)
    assert "in_force" not in (await rig.call("POST", TARGETS, json=target())).body
