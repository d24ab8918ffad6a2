"""Sealed secrets in the bucket: nobody sees them, nothing else changes, and keys can be changed."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tas_mcp import subjects
from tests.e2e.system import BIN
from tests.nats_server import NatsServer
from tests.services.control.conftest import ready
from tests.services.control.rig import TARGETS, Rig, running, target, until

ORDERS = f"{TARGETS}/orders"
ROTATE = "/api/v1/secrets/rotate"
SECRET = "whsec_" + "A" * 32
TOKEN = "a-token-that-is-secret-1234"
CONFIG = {"signing_secret": SECRET, "authentication": {"type": "bearer", "token": TOKEN}}
OLD, NEW = (f"k{number}:{base64.b64encode(bytes([number]) * 32).decode()}" for number in (1, 2))


@pytest.fixture
async def rig(nats: NatsServer) -> AsyncIterator[Rig]:
    """A service with a key."""
    async with running(nats.url, secret_key=OLD) as found:
        await until(lambda: ready(found))
        yield found


async def stored(rig: Rig, target_id: str = "orders") -> str:
    """The document as the broker has it."""
    [message] = await rig.jetstream.last_of("KV_tas_targets", [subjects.bucket_key(subjects.TARGETS_BUCKET, target_id)])
    return message.data.decode()


async def save(rig: Rig, target_id: str = "orders", **changes: Any) -> None:
    answer = await rig.call("PUT", f"{TARGETS}/{target_id}", json=target(target_id, **{"config": CONFIG, **changes}))
    assert answer.status == 200, answer


async def test_the_broker_never_sees_a_secret_and_people_see_what_they_did(rig: Rig) -> None:
    await save(rig)
    value = await stored(rig)
    assert SECRET not in value
    assert TOKEN not in value
    assert value.count('"sealed:k1:') == 2
    shown = (await rig.call("GET", ORDERS)).body["config"]
    assert (shown["signing_secret"], shown["authentication"]["token"]) == ("***AAAA", "***1234")


async def test_a_mask_that_comes_back_keeps_the_sealed_secret_as_it_is(rig: Rig) -> None:
    await save(rig)
    before = await stored(rig)
    shown = (await rig.call("GET", ORDERS)).body
    await save(rig, name="new", config=shown["config"])
    assert await stored(rig) == before.replace('"name":null', '"name":"new"')
    first, second = [each["revision"] for each in (await rig.call("GET", f"{ORDERS}/revisions")).body["items"]][::-1]
    found = (await rig.call("GET", f"{ORDERS}/revisions/{first}/diff/{second}")).body["changes"]
    assert [each["pointer"] for each in found] == ["/name"]


async def test_a_rollback_brings_the_old_secret_back_and_a_diff_shows_masks(rig: Rig) -> None:
    await save(rig)
    await save(rig, config={"signing_secret": "whsec_" + "B" * 32})
    second, first = [each["revision"] for each in (await rig.call("GET", f"{ORDERS}/revisions")).body["items"]]
    found = (await rig.call("GET", f"{ORDERS}/revisions/{first}/diff/{second}")).body["changes"]
    changed = {each["pointer"]: each for each in found}["/config/signing_secret"]
    assert (changed["before"], changed["after"]) == ("***AAAA", "***BBBB")
    assert (await rig.call("POST", f"{ORDERS}/rollback", json={"revision": first})).status == 200
    assert (await rig.call("GET", ORDERS)).body["config"]["signing_secret"] == "***AAAA"
    assert SECRET not in await stored(rig)


async def rotated(rig: Rig, query: str = "") -> Any:
    answer = await rig.call("POST", ROTATE + query)
    assert answer.status == 200, answer
    return answer.body


async def test_a_new_key_seals_all_anew_once_page_by_page(nats: NatsServer) -> None:
    async with running(nats.url) as bare:
        await until(lambda: ready(bare))
        for name in ("a", "b", "c"):
            await save(bare, name)
        await save(bare, "none", config={})
        assert SECRET in await stored(bare, "a")
        refused = await bare.call("POST", ROTATE)
        assert (refused.status, refused.body["code"]) == (409, "CONFLICT")
    async with running(nats.url, secret_key=OLD) as rig:
        await until(lambda: ready(rig))
        first = await rotated(rig, "?limit=2&comment=first")
        assert (first["matched"], first["rotated"], first["failed"]) == (2, 2, 0)
        rest = await rotated(rig, f"?cursor={first['next']}")
        assert (rest["matched"], rest["rotated"], rest["next"]) == (2, 1, None)
        assert (await rotated(rig))["rotated"] == 0
        told = (await rig.call("GET", "/api/v1/audit/log?kind=secrets")).body["items"]
        assert [(each["action"], each["id"], each["comment"]) for each in told] == [
            ("rotated", "a", "first"), ("rotated", "b", "first"), ("rotated", "c", ""),
        ]  # fmt: skip
    async with running(nats.url, secret_key=f"{NEW}\n{OLD}") as rig:
        await until(lambda: ready(rig))
        await save(rig, "b", name="changed meanwhile")
        assert (await rotated(rig))["rotated"] == 2
        assert "sealed:k1" not in "".join([await stored(rig, name) for name in "abc"])
    async with running(nats.url, secret_key=NEW) as rig:
        await until(lambda: ready(rig))
        assert (await rig.call("GET", f"{TARGETS}/a")).body["config"]["signing_secret"] == "***AAAA"


async def test_a_secret_whose_key_is_not_there_is_a_clear_flaw_and_can_be_written_anew(rig: Rig, nats: NatsServer) -> None:
    await save(rig)
    async with running(nats.url, secret_key=NEW) as other:
        await until(lambda: ready(other))
        shown = (await other.call("GET", ORDERS)).body
        assert "is sealed with the key 'k1', which is not in TAS_SECRET_KEY_FILE" in shown["invalid"]
        failed = await rotated(other)
        assert (failed["rotated"], failed["failed"]) == (0, 1)
        assert failed["failures"][0]["id"] == "orders"
        assert "sealed:k1:" in await stored(other)
        await save(other, config={"signing_secret": "whsec_" + "B" * 32})
        assert (await other.call("GET", ORDERS)).body["config"]["signing_secret"] == "***BBBB"


async def test_the_command_rotates_all(rig: Rig, nats: NatsServer) -> None:
    for number in range(25):
        await save(rig, f"t{number:02}")
    async with running(nats.url, secret_key=f"{NEW}\n{OLD}") as newer:
        await until(lambda: ready(newer))
        assert await command(newer.base) == (0, "sealed anew: 25\n")
        assert await command(newer.base) == (0, "sealed anew: 0\n")
        foreign = (await stored(rig, "t03")).replace("sealed:k2", "sealed:k9")
        await newer.publisher.store(subjects.bucket_key(subjects.TARGETS_BUCKET, "t03"), foreign.encode())
        code, out = await command(newer.base)
        assert (code, out.splitlines()[-1]) == (1, "sealed anew: 0")
        assert out.startswith("'t03': ")


async def command(base: str) -> tuple[int, str]:
    words = [str(BIN / "tas"), "secrets", "rotate", "--url", base]
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@pytest.mark.parametrize(("host", "key", "warned"), [("127.0.0.1", "", False), ("0.0.0.0", "", True), ("0.0.0.0", OLD, False)])
async def test_a_start_without_a_key_warns_but_on_a_laptop(
    nats: NatsServer, capsys: pytest.CaptureFixture[str], host: str, key: str, warned: bool
) -> None:
    async with running(nats.url, host=host, secret_key=key):
        assert ("secrets of targets are stored as they are" in capsys.readouterr().out) is warned
