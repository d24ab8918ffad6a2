"""The schemas over HTTP, on a real broker."""

import asyncio
from typing import Any

import pytest

from tas_mcp import schemas, subjects
from tas_mcp.messages import Presence, encode
from tests.services.control.rig import SCHEMAS, Rig, until

ORDER = f"{SCHEMAS}/order.created"
NUMBER = {"type": "object", "required": ["n"], "properties": {"n": {"type": "number", "maximum": 1e300}}}


def document(schema: Any = True, **changes: Any) -> dict[str, Any]:
    return {"schema": schema, **changes}


async def test_a_schema_is_saved_read_changed_and_deleted(rig: Rig) -> None:
    saved = await rig.call("PUT", ORDER, json=document(NUMBER))
    assert (saved.status, saved.body) == (200, {"status": "updated", "event_type": "order.created"})
    read = await rig.call("GET", ORDER)
    assert (read.status, read.headers["ETag"]) == (200, saved.headers["ETag"])
    assert read.body == {"event_type": "order.created", "revision": 1, "mode": "enforce", "schema": NUMBER}
    [message] = await rig.jetstream.last_of("KV_tas_schemas", [subjects.bucket_key("tas_schemas", "order.created")])
    assert schemas.decode("order.created", 1, message.data).document.schema == NUMBER
    changed = await rig.call("PUT", ORDER, json=document(NUMBER, mode="warn"))
    assert (changed.status, changed.headers["ETag"]) == (200, '"2"')
    assert (await rig.call("GET", ORDER)).body["mode"] == "warn"
    deleted = await rig.call("DELETE", ORDER)
    assert (deleted.status, deleted.body) == (200, {"status": "deleted", "event_type": "order.created"})
    for method in ("GET", "DELETE"):
        gone = await rig.call(method, ORDER)
        assert (gone.status, gone.body["code"]) == (404, "NOT_FOUND")
    assert (await rig.call("PUT", ORDER, json=document())).status == 200


async def test_lists_by_name_and_page(rig: Rig) -> None:
    for name in ("user.**", "a%2Fb%20c", "order.*"):
        assert (await rig.call("PUT", f"{SCHEMAS}/{name}", json=document())).status == 200
    assert (await rig.call("GET", f"{SCHEMAS}/a%2Fb%20c")).body["event_type"] == "a/b c"
    first = (await rig.call("GET", f"{SCHEMAS}?limit=2")).body
    assert [each["event_type"] for each in first["items"]] == ["a/b c", "order.*"]
    rest = (await rig.call("GET", f"{SCHEMAS}?limit=2&cursor={first['next']}")).body
    assert ([each["event_type"] for each in rest["items"]], rest["next"]) == (["user.**"], None)
    await rig.call("DELETE", f"{SCHEMAS}/order.*")
    assert len((await rig.call("GET", SCHEMAS)).body["items"]) == 2


async def test_preconditions(rig: Rig) -> None:
    assert (await rig.call("PUT", ORDER, json=document(), headers={"If-Match": '"1"'})).status == 412
    first = await rig.call("PUT", ORDER, json=document(), headers={"If-None-Match": "*"})
    tag = {"If-Match": first.headers["ETag"]}
    assert (await rig.call("PUT", ORDER, json=document(False), headers=tag)).status == 200
    stale = await rig.call("PUT", ORDER, json=document(), headers=tag)
    assert (stale.status, stale.body["code"]) == (412, "PRECONDITION_FAILED")
    assert (await rig.call("DELETE", ORDER, headers=tag)).status == 412
    assert (await rig.call("PUT", ORDER, json=document(), headers={"If-None-Match": "*"})).status == 412
    assert (await rig.call("GET", ORDER)).body["schema"] is False


async def test_changes_at_the_same_moment_are_made_one_after_another(rig: Rig) -> None:
    answers = await asyncio.gather(*(rig.call("PUT", ORDER, json=document({"const": n})) for n in range(4)))
    assert [answer.status for answer in answers] == [200] * 4
    assert sorted(answer.headers["ETag"] for answer in answers) == ['"1"', '"2"', '"3"', '"4"']
    guarded = (rig.call("PUT", ORDER, json=document({"const": n}), headers={"If-Match": '"4"'}) for n in range(4))
    assert sorted(answer.status for answer in await asyncio.gather(*guarded)) == [200, 412, 412, 412]


@pytest.mark.parametrize(
    ("name", "options", "status", "code", "pointer"),
    [
        ("a", {"data": b"{}"}, 415, "UNSUPPORTED_MEDIA_TYPE", None),
        ("a", {"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, "INVALID_REQUEST", ""),
        ("a", {"json": {}}, 422, "INVALID_SCHEMA", "/schema"),
        ("a", {"json": document({"type": "nope"})}, 422, "INVALID_SCHEMA", "/schema/type"),
        ("a", {"json": document({"properties": {"x": {"pattern": "("}}})}, 422, "INVALID_SCHEMA", "/schema/properties/x/pattern"),
        ("a", {"json": document({"$ref": "http://127.0.0.1:1/x"})}, 422, "INVALID_SCHEMA", "/schema"),
        ("a", {"json": document(mode="loud")}, 422, "INVALID_SCHEMA", "/mode"),
        ("a", {"json": document({"maximum": 10**30})}, 200, None, None),
        ("**.a", {"json": document()}, 422, "INVALID_SCHEMA", ""),
        ("a" * 300, {"json": document()}, 422, "INVALID_SCHEMA", ""),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_refused(rig: Rig, name: str, options: Any, status: int, code: str | None, pointer: str | None) -> None:
    answer = await rig.call("PUT", f"{SCHEMAS}/{name}", **options)
    assert (answer.status, answer.body.get("code")) == (status, code)
    if pointer is not None:
        assert answer.body["errors"][0]["pointer"] == pointer


async def test_a_document_that_cannot_be_read_can_be_seen_replaced_and_deleted(rig: Rig) -> None:
    for name in ("order.created", "**.bad"):
        await rig.publisher.store(subjects.bucket_key("tas_schemas", name), b"{")
    assert all("invalid" in each for each in (await rig.call("GET", SCHEMAS)).body["items"])
    assert "not valid" in (await rig.call("GET", ORDER)).body["invalid"]
    assert (await rig.call("PUT", ORDER, json=document())).status == 200
    assert (await rig.call("DELETE", f"{SCHEMAS}/**.bad")).status == 200
    assert [each["event_type"] for each in (await rig.call("GET", SCHEMAS)).body["items"]] == ["order.created"]


async def test_an_answer_waits_until_every_ingest_replica_has_the_revision(rig: Rig) -> None:
    def announce(revision: int) -> None:
        rig.connection.send(subjects.presence("ingest", "i1"), encode(Presence("ingest", "i1", revision)))

    async def stored() -> bool:
        return (await rig.call("GET", ORDER)).status == 200

    rig.announce(0, "p1")
    announce(0)
    waiting = asyncio.create_task(rig.call("PUT", ORDER, json=document()))
    await until(stored)
    assert not waiting.done()
    announce(1)
    assert "in_force" not in (await waiting).body
    announce(1)
    late = await rig.call("DELETE", ORDER)
    assert late.body == {"status": "deleted", "event_type": "order.created", "in_force": False}
