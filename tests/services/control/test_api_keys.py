"""The API keys over HTTP: shown once, listed without their secret, changed without a gap, revoked at once."""

import json
import time
from typing import Any

import pytest

from tas_mcp import subjects
from tas_mcp.auth import keys
from tests.services.control.rig import ADMIN, KEYS, TARGETS, Answer, Rig, until

SHOP = {"name": "shop", "scopes": ["targets:read"]}


async def admin(rig: Rig, method: str, path: str, **options: Any) -> Answer:
    return await rig.call_with(ADMIN, method, path, **options)


async def made(rig: Rig, **changes: Any) -> dict[str, Any]:
    answer = await admin(rig, "POST", KEYS, json={**SHOP, **changes})
    assert answer.status == 201, answer.body
    await followed(rig, answer)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Location"] == f"{KEYS}/{answer.body['id']}"
    found: dict[str, Any] = answer.body
    return found


async def followed(rig: Rig, answer: Answer) -> None:
    """Wait until a change is in force, where its answer says that the second was not enough."""
    if answer.body.pop("in_force", True):
        return

    async def later() -> bool:
        made = await admin(rig, "POST", KEYS, json={**SHOP, "name": "later"})
        return "in_force" not in (await admin(rig, "DELETE", f"{KEYS}/{made.body['id']}")).body

    await until(later)


async def status(rig: Rig, key: str) -> int:
    return (await rig.call_with(key, "GET", TARGETS)).status


async def test_a_key_is_in_force_when_its_making_is_answered_and_gone_when_its_end_is(locked: Rig) -> None:
    for _ in range(5):
        key = await made(locked)
        assert await status(locked, key["key"]) == 200
        answer = await admin(locked, "DELETE", f"{KEYS}/{key['id']}")
        await followed(locked, answer)
        assert answer.body == {"status": "revoked", "id": key["id"]}
        assert await status(locked, key["key"]) == 401
    assert (await admin(locked, "DELETE", f"{KEYS}/{key['id']}")).status == 404


async def test_a_key_is_shown_once(locked: Rig) -> None:
    key = await made(locked, event_types=["order.*"], sources=["shop"], expires_in="1h")
    secret = key.pop("key")
    assert keys.id_of(secret) == key["id"]
    assert key == {
        **SHOP,
        "id": key["id"],
        "event_types": ["order.*"],
        "sources": ["shop"],
        "created_at": key["created_at"],
        "created_by": "bootstrap",
        "expires_at": pytest.approx(key["created_at"] + 3600),
    }
    assert (await admin(locked, "GET", f"{KEYS}/{key['id']}")).body == key
    assert (await admin(locked, "GET", KEYS)).body == {"items": [key], "next": None}
    stored = await locked.jetstream.last_of(
        subjects.bucket_stream(subjects.KEYS_BUCKET), [subjects.bucket_key(subjects.KEYS_BUCKET, key["id"])]
    )
    audit = (await admin(locked, "GET", "/api/v1/audit/log?kind=keys")).body
    assert secret[17:].encode() not in stored[0].data
    assert secret[17:] not in json.dumps(audit)
    [record] = [each for each in audit["items"] if each["id"] == key["id"]]
    assert (record["action"], record["id"], record["author"]) == ("created", key["id"], "bootstrap")


async def test_keys_are_listed_by_name_in_pages(locked: Rig) -> None:
    made_ids = {(await made(locked, name=name))["id"]: name for name in ("b", "a", "b", "c")}
    first = (await admin(locked, "GET", f"{KEYS}?limit=3")).body
    second = (await admin(locked, "GET", KEYS + f"?limit=3&cursor={first['next']}")).body
    assert [each["name"] for each in (*first["items"], *second["items"])] == ["a", "b", "b", "c"]
    assert {each["id"] for each in (await admin(locked, "GET", f"{KEYS}?name=b")).body["items"]} == {
        key_id for key_id, name in made_ids.items() if name == "b"
    }


async def test_a_key_is_changed_for_a_new_one_without_a_gap(locked: Rig) -> None:
    old = await made(locked, expires_in="90d", sources=["s"])
    before = time.time()
    answer = await admin(locked, "POST", f"{KEYS}/{old['id']}/rotate", json={"overlap": "1h"})
    assert answer.status == 201
    await followed(locked, answer)
    new = answer.body
    assert new["replaces"] == {"id": old["id"], "expires_at": pytest.approx(before + 3600, abs=60)}
    assert {new[each] == old[each] for each in ("name", "scopes", "sources", "event_types")} == {True}
    assert new["expires_at"] - new["created_at"] == pytest.approx(90 * 86400)
    assert [await status(locked, each["key"]) for each in (old, new)] == [200, 200]
    await followed(locked, await admin(locked, "POST", f"{KEYS}/{new['id']}/rotate", json={"overlap": "0s"}))
    assert [await status(locked, each["key"]) for each in (old, new)] == [200, 401]


async def test_a_rotation_never_makes_the_old_key_last_longer(locked: Rig) -> None:
    old = await made(locked, expires_in="1h")
    answer = await admin(locked, "POST", f"{KEYS}/{old['id']}/rotate")
    assert answer.body["replaces"]["expires_at"] == old["expires_at"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"name": "a b"}, "/name"),
        ({"scopes": ["root"]}, "/scopes/0"),
        ({"expires_in": "soon"}, "/expires_in"),
        ({"hash": "0" * 64}, "/hash"),
    ],
)
async def test_what_is_no_key(locked: Rig, changes: dict[str, Any], pointer: str) -> None:
    answer = await admin(locked, "POST", KEYS, json={**SHOP, **changes})
    assert (answer.status, answer.body["code"]) == (422, "INVALID_KEY")
    assert [each["pointer"] for each in answer.body["errors"]] == [pointer]


async def test_a_document_that_is_no_key_can_be_seen_and_removed(locked: Rig) -> None:
    await locked.publisher.store(subjects.bucket_key(subjects.KEYS_BUCKET, "odd"), b"{}")
    assert (await admin(locked, "GET", f"{KEYS}/odd")).body["id"] == "odd"
    assert "invalid" in (await admin(locked, "GET", KEYS)).body["items"][0]
    assert (await admin(locked, "POST", f"{KEYS}/odd/rotate")).status == 409
    assert (await admin(locked, "DELETE", f"{KEYS}/odd")).status == 200
    assert (await admin(locked, "GET", KEYS)).body["items"] == []
