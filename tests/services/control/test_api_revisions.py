"""The history of the targets over HTTP, on a real broker."""

from typing import Any

import pytest

from tas_mcp import subjects, targets
from tests.services.control.rig import TARGETS, Rig, target, until

ORDERS = f"{TARGETS}/orders"
REVISIONS = f"{ORDERS}/revisions"
ALL = "/api/v1/revisions"
OLD, NEW = "whsec_" + "A" * 32, "whsec_" + "B" * 32


async def put(rig: Rig, target_id: str = "orders", comment: str = "", **changes: Any) -> int:
    """Store a target; its revision."""
    answer = await rig.call("PUT", f"{TARGETS}/{target_id}", params={"comment": comment}, json=target(target_id, **changes))
    assert answer.status == 200, answer.body
    return int(answer.headers["ETag"].strip('"'))


async def gone(rig: Rig, target_id: str = "orders") -> None:
    async def erased() -> bool:
        newest = (await rig.call("GET", f"{TARGETS}/{target_id}/revisions")).body["items"][0]
        return bool(newest["change"] == "erased")

    assert (await rig.call("DELETE", f"{TARGETS}/{target_id}")).status == 200
    await until(erased)


async def numbers(rig: Rig, path: str, limit: int) -> list[int]:
    """The revisions of a list, read page by page."""
    found: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        body = (await rig.call("GET", path, params={"limit": str(limit), **cursor})).body
        assert len(body["items"]) == limit or body["next"] is None
        found += [each["revision"] for each in body["items"]]
        if body["next"] is None:
            return found
        cursor = {"cursor": body["next"]}


async def test_every_change_is_a_revision_with_time_author_and_comment(rig: Rig) -> None:
    first = await put(rig, comment="größer: ja")
    answer = await rig.call("POST", f"{ORDERS}/pause?comment=night")
    await gone(rig)
    found = (await rig.call("GET", REVISIONS)).body["items"]
    assert [each["change"] for each in found] == ["erased", "removed", "saved", "saved"]
    assert [each["comment"] for each in found] == ["", "", "night", "größer: ja"]
    assert [each["author"] for each in found] == ["system", "anonymous", "anonymous", "anonymous"]
    assert [each["revision"] for each in found[2:]] == [int(answer.headers["ETag"].strip('"')), first]
    assert {each["target_id"] for each in found} == {"orders"}
    times = [each["at"] for each in found]
    assert times == sorted(times, reverse=True)
    shown = (await rig.call("GET", f"{REVISIONS}/{first}")).body
    assert (shown["comment"], shown["target"]["endpoint"], shown["target"]["paused"]) == (
        "größer: ja",
        target()["endpoint"],
        False,
    )
    assert (await rig.call("GET", f"{REVISIONS}/{found[0]['revision']}")).body["target"] is None


@pytest.mark.parametrize("comment", ["x" * 501, "a\nb", "\x7f"])
async def test_a_comment_that_is_unfit(rig: Rig, comment: str) -> None:
    answer = await rig.call("PUT", ORDERS, params={"comment": comment}, json=target())
    assert (answer.status, answer.body["code"]) == (400, "INVALID_REQUEST")
    revision = await put(rig)
    answer = await rig.call("POST", f"{ORDERS}/rollback", json={"revision": revision, "comment": comment})
    assert (answer.status, answer.body["errors"][0]["pointer"]) == (400, "/comment")


async def test_lists_come_in_pages_the_youngest_first(rig: Rig) -> None:
    written: dict[str, list[int]] = {"a": [], "b": [], "orders": []}
    value = targets.encode(targets.check(target())[0])
    for turn in range(70):
        for target_id in ("a", "b") if turn % 9 else ("a", "orders"):
            stored = await rig.publisher.store(subjects.bucket_key("tas_targets", target_id), value)
            written[target_id].append(stored.seq)
    assert await numbers(rig, f"{TARGETS}/a/revisions", 5) == written["a"][:-65:-1]
    assert await numbers(rig, f"{TARGETS}/b/revisions", 1000) == written["b"][::-1]
    kept = written["a"][-64:] + written["b"] + written["orders"]
    for limit in (7, 64, 1000):
        assert await numbers(rig, ALL, limit) == sorted(kept, reverse=True)
    assert (await rig.call("GET", f"{TARGETS}/a/revisions/{written['a'][0]}")).status == 404
    forgotten = await rig.call("POST", f"{ALL}/rollback", json={"revision": written["a"][0], "dry_run": True})
    assert [each["action"] for each in forgotten.body["targets"]] == ["failed", "removed", "removed"]


async def test_a_diff_tells_that_a_secret_changed_but_not_to_what(rig: Rig) -> None:
    rule = {"id": "big", "conditions": [{"field": "data.amount", "operator": "gt", "value": 1}]}
    before = await put(rig, config={"signing_secret": OLD}, rules=[rule])
    after = await put(rig, config={"signing_secret": NEW}, rules=[{"id": "new"}, rule], name="Orders")
    found = (await rig.call("GET", f"{REVISIONS}/{before}/diff/{after}")).body
    assert (found["target_id"], found["from"], found["to"]) == ("orders", before, after)
    changed = {each["pointer"]: each for each in found["changes"]}
    assert set(changed) == {"/name", "/config/signing_secret", "/rules/0"}
    secret = changed["/config/signing_secret"]
    assert (secret["op"], secret["before"], secret["after"]) == ("replace", "***AAAA", "***BBBB")
    assert changed["/rules/0"]["op"] == "add"
    assert OLD not in str(found)
    assert NEW not in str(found)
    assert (await rig.call("GET", f"{REVISIONS}/{after}/diff/{after}")).body["changes"] == []


async def test_a_rollback_is_a_new_revision_with_the_old_document(rig: Rig) -> None:
    old = await put(rig, name="old", config={"signing_secret": OLD})
    new = await put(rig, name="new", config={"signing_secret": NEW})
    stale = await rig.call("POST", f"{ORDERS}/rollback", json={"revision": old}, headers={"If-Match": f'"{old}"'})
    assert (stale.status, stale.body["code"]) == (412, "PRECONDITION_FAILED")
    done = await rig.call("POST", f"{ORDERS}/rollback", json={"revision": old}, headers={"If-Match": f'"{new}"'})
    assert (done.status, done.body) == (200, {"status": "rolled_back", "target_id": "orders"})
    newest = (await rig.call("GET", REVISIONS)).body["items"][0]
    assert done.headers["ETag"] == f'"{newest["revision"]}"'
    assert newest["revision"] > new
    assert newest["comment"] == f"rollback to revision {old}"
    [message] = await rig.jetstream.last_of("KV_tas_targets", [subjects.bucket_key("tas_targets", "orders")])
    stored = targets.decode(message.data)
    assert isinstance(stored, targets.WebhookTarget)
    assert (stored.name, stored.delivery.signing_secret) == ("old", OLD)


async def test_a_deleted_target_comes_back(rig: Rig) -> None:
    revision = await put(rig, name="old")
    await gone(rig)
    erased = (await rig.call("GET", REVISIONS)).body["items"][0]["revision"]
    refused = await rig.call("POST", f"{ORDERS}/rollback", json={"revision": erased})
    assert (refused.status, refused.body["code"]) == (409, "CONFLICT")
    assert (await rig.call("POST", f"{ORDERS}/rollback", json={"revision": revision})).status == 200
    assert (await rig.call("GET", ORDERS)).body["name"] == "old"
    assert (await rig.consumer("orders"))["name"] == "fwd_orders"


async def test_a_revision_that_is_not_valid_any_more_is_refused(rig: Rig) -> None:
    bad = await rig.publisher.store(subjects.bucket_key("tas_targets", "orders"), b'{"id": "orders", "type": "pigeon"}')
    good = await put(rig)
    refused = await rig.call("POST", f"{ORDERS}/rollback", json={"revision": bad.seq})
    assert (refused.status, refused.body["code"]) == (422, "INVALID_TARGET")
    assert "pigeon" in refused.body["detail"]
    assert (await rig.call("GET", ORDERS)).headers["ETag"] == f'"{good}"'
    assert "pigeon" in (await rig.call("GET", f"{REVISIONS}/{bad.seq}")).body["target"]["invalid"]
    everything = await rig.call("POST", f"{ALL}/rollback", json={"revision": bad.seq})
    [failed] = everything.body["targets"]
    assert (everything.status, failed["action"]) == (200, "failed")
    assert "pigeon" in failed["detail"]


async def test_all_targets_go_back_each_for_itself(rig: Rig) -> None:
    same = await put(rig, "same")
    await put(rig, "changed", name="old")
    point = await put(rig, "deleted", name="old")
    await put(rig, "changed", name="new")
    await gone(rig, "deleted")
    last = await put(rig, "young")
    wanted = {"changed": "updated", "deleted": "created", "same": "unchanged", "young": "removed"}
    request = {"revision": point, "comment": "back to Monday"}

    dry = await rig.call("POST", f"{ALL}/rollback", json={**request, "dry_run": True})
    assert {each["target_id"]: each["action"] for each in dry.body["targets"]} == wanted
    assert (await rig.call("GET", ALL)).body["items"][0]["revision"] == last

    done = await rig.call("POST", f"{ALL}/rollback", json=request)
    assert (done.status, done.body["revision"], done.body["dry_run"]) == (200, point, False)
    assert {each["target_id"]: each["action"] for each in done.body["targets"]} == wanted
    found = (await rig.call("GET", TARGETS)).body
    assert {target_id: each["name"] for target_id, each in found.items()} == {"changed": "old", "deleted": "old", "same": None}
    assert (await rig.call("GET", f"{TARGETS}/same")).headers["ETag"] == f'"{same}"'
    assert (await rig.call("GET", f"{TARGETS}/changed/revisions")).body["items"][0]["comment"] == "back to Monday"
    again = await rig.call("POST", f"{ALL}/rollback", json=request)
    assert {each["action"] for each in again.body["targets"]} == {"unchanged"}


async def test_what_is_not_there(rig: Rig) -> None:
    revision = await put(rig)
    other = await put(rig, "other")
    for path in (f"{REVISIONS}/{other}", f"{REVISIONS}/0", f"{REVISIONS}/x", f"{REVISIONS}/{revision}/diff/{other}"):
        assert (await rig.call("GET", path)).status == 404, path
    assert (await rig.call("GET", f"{TARGETS}/never/revisions")).status == 404
    assert (await rig.call("POST", f"{ORDERS}/rollback", json={"revision": other})).status == 404
    assert (await rig.call("POST", f"{ALL}/rollback", json={"revision": other + 1})).status == 404
    unfit: list[Any] = [{}, {"revision": 0}, {"revision": "1"}, {"revision": 1, "extra": 2}, []]
    for body in unfit:
        for path in (f"{ORDERS}/rollback", f"{ALL}/rollback"):
            assert (await rig.call("POST", path, json=body)).status == 400
    assert (await rig.call("GET", f"{ALL}?cursor=x")).status == 400
