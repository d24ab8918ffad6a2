"""Who may do what by the management API."""

import re
import secrets

from services.control.access import OPEN, SCOPES
from tas_mcp import subjects
from tas_mcp.auth import keys
from tas_mcp.callers import SCOPES as ALL_SCOPES
from tas_mcp.messages import encode
from tests.services.control.rig import TARGETS, Rig, target, until


async def key_for(rig: Rig, *scopes: str) -> str:
    """A key with these scopes, in force."""
    text = keys.text(secrets.token_bytes)
    document = {"name": "ci", "hash": keys.hash_of(text), "scopes": scopes, "created_at": 1, "created_by": "test"}
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
    records = (await locked.call_with(key, "GET", "/api/v1/audit/log")).body["items"]
    assert revisions[0]["author"] == records[0]["author"] == f"ci/{keys.id_of(key)}"
