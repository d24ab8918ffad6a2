"""Who may do what by the management API."""

import re
import secrets
from typing import Any

from msgspec import Raw

from services.control.access import OPEN, SCOPES
from tas_mcp import subjects
from tas_mcp.auth import keys
from tas_mcp.callers import SCOPES as ALL_SCOPES
from tas_mcp.messages import Delivery, Event, RefusedEvent, encode
from tests.nats_server import NatsServer
from tests.services.control.conftest import ready
from tests.services.control.rig import ADMIN, DEAD, REJECTED, TARGETS, Rig, running, target, until


async def key_for(rig: Rig, *scopes: str, **changes: Any) -> str:
    """A key with these scopes, in force."""
    text = keys.text(secrets.token_bytes)
    document = {"name": "ci", "hash": keys.hash_of(text), "scopes": scopes, "created_at": 1, "created_by": "test", **changes}
    await rig.publisher.store(subjects.bucket_key(subjects.KEYS_BUCKET, keys.id_of(text)), encode(document))

    async def in_force() -> bool:
        return (await rig.call_with(text, "GET", TARGETS)).status != 401

    await until(in_force)
    return text


def concrete(path: str) -> str:
    return re.sub(r"{\w+}", "1", path)


async def test_every_route_asks_for_a_key(locked: Rig) -> None:
    for method, path in SCOPES:
        for headers in ({}, {"X-API-Key": "wrong"}):
            answer = await locked.call(method, concrete(path), headers=headers)
            assert (answer.status, answer.body["code"]) == (401, "UNAUTHORIZED"), (method, path)
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="tas-mcp"'
    for method, path in OPEN:
        async with locked.session.request(method, locked.base + path) as opened:
            assert opened.status == 200


async def test_every_route_asks_for_its_scope(locked: Rig) -> None:
    for scope in sorted(ALL_SCOPES - {"admin"}):
        key = await key_for(locked, scope)
        for (method, path), wanted in SCOPES.items():
            answer = await locked.call_with(key, method, concrete(path))
            refused = answer.status == 403 and answer.body["code"] == "FORBIDDEN"
            assert refused is (scope != wanted), (method, path, scope)
            if refused:
                assert f"needs the scope {wanted}" in answer.body["detail"]


async def test_a_change_has_its_author(locked: Rig) -> None:
    key = await key_for(locked, "targets:write", "targets:read", "admin")
    assert (await locked.call_with(key, "PUT", f"{TARGETS}/orders", json=target())).status == 200
    revisions = (await locked.call_with(key, "GET", f"{TARGETS}/orders/revisions")).body["items"]
    records = (await locked.call_with(key, "GET", "/api/v1/audit/log?kind=targets")).body["items"]
    assert revisions[0]["author"] == records[0]["author"] == f"ci/{keys.id_of(key)}"


async def test_who_tries_what_its_scopes_do_not_allow_is_recorded(locked: Rig) -> None:
    key = await key_for(locked, "targets:read")
    assert (await locked.call_with(key, "DELETE", f"{TARGETS}/orders")).status == 403

    async def recorded() -> Any:
        log = await locked.call_with(ADMIN, "GET", "/api/v1/audit/log?kind=authentication")
        return [each for each in log.body["items"] if each["details"].get("reason") == "scope"]

    [found] = await until(recorded)
    who = f"ci/{keys.id_of(key)}"
    assert (found["author"], found["id"], found["address"], found["details"]["count"]) == (who, who, "127.0.0.1", 1)


async def test_behind_a_proxy_a_record_holds_the_address_of_the_client(nats: NatsServer) -> None:
    async with running(nats.url, auth="auto", admin_key=ADMIN, trusted_proxies="127.0.0.0/8") as rig:
        await until(lambda: ready(rig))
        headers = {"X-API-Key": ADMIN, "X-Forwarded-For": "192.0.2.66, 203.0.113.9"}
        assert (await rig.call("PUT", f"{TARGETS}/orders", json=target(), headers=headers)).status == 200
        [found] = (await rig.call("GET", "/api/v1/audit/log?kind=targets", headers=headers)).body["items"]
    assert found["address"] == "203.0.113.9"


async def test_a_key_with_patterns_sees_no_other_events(locked: Rig) -> None:
    """Dead letters, refused events, and what a backtest would tell of them all."""
    event_of = {each: Event(event_id=each, event_type=each, source="s", timestamp=1, accepted_at=1) for each in ("a.b", "c.d")}
    ids = {}
    for event_type, event in event_of.items():
        refused = RefusedEvent(event=Raw(encode(event)), errors=[], schema="x", revision=1, at=1.0)
        body = Delivery(event=Raw(encode(event)), event_seq=1, revision=1)
        ids[DEAD, event_type] = await locked.bury("orders", 1, delivery=body)
        ids[REJECTED, event_type] = (await locked.publisher.store(subjects.rejected(event_type), encode(refused))).seq
    key, free = await key_for(locked, "events:read", event_types=["a.*"]), await key_for(locked, "events:read")
    for path in (DEAD, REJECTED):
        assert len((await locked.call_with(free, "GET", path)).body["items"]) == 2
        assert [each["id"] for each in (await locked.call_with(key, "GET", path)).body["items"]] == [str(ids[path, "a.b"])]
        answers = [await locked.call_with(key, "GET", f"{path}/{ids[path, event_type]}") for event_type in event_of]
        assert [answer.status for answer in answers] == [200, 404]
    assert (await locked.call_with(key, "POST", "/api/v1/rules:backtest", json={})).status == 403
