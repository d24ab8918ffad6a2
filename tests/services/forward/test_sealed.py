"""Lanes of targets whose secrets are sealed."""

from collections.abc import Callable

from tas_mcp import targets
from tas_mcp.sealing import parse
from tests.services.forward.rig import Rig, forwarding
from tests.services.forward.test_trial import tried
from tests.shared.rig import until

KEY = "k1:" + "A" * 43 + "="
OTHER = "k2:" + "B" * 43 + "="
TOKEN = "secret-token-1"


def document(rig: Rig, token: str, keys: str) -> bytes:
    given = {"id": "a", "type": "webhook", "endpoint": rig.receiver.url("a")}
    config = {"authentication": {"type": "bearer", "token": token}}
    return targets.sealed(targets.check({**given, "config": config})[0], parse(keys))


def got(rig: Rig) -> list[str]:
    return [headers["authorization"] for _, headers, _ in rig.receiver.seen]


def arrived(rig: Rig, count: int) -> Callable[[], bool]:
    return lambda: len(rig.receiver.seen) == count


async def test_a_sealed_secret_is_opened_for_the_target(rig: Rig) -> None:
    await rig.put("a", document(rig, TOKEN, KEY))
    await rig.broker.open_lane("a")
    async with forwarding(rig, secret_key=KEY):
        await rig.owe("a", 1)
        await until(arrived(rig, 1))
        assert (await tried(rig, "a")).delivered
    assert got(rig) == [f"Bearer {TOKEN}"] * 2


async def test_a_document_that_cannot_be_opened_leaves_the_old_one_in_force(rig: Rig) -> None:
    await rig.put("a", document(rig, TOKEN, KEY))
    await rig.broker.open_lane("a")
    async with forwarding(rig, secret_key=KEY) as ops:
        await rig.owe("a", 1)
        await until(arrived(rig, 1))
        await rig.put("a", document(rig, "another", OTHER))
        trial = await tried(rig, "a")
        assert not trial.delivered
        assert "sealed with the key 'k2', which is not in TAS_SECRET_KEY_FILE" in trial.error
        await until(lambda: "'a' revision 2" in ops.readiness()[1]["targets"]["detail"])
        await rig.owe("a", 2)
        await until(arrived(rig, 2))
    assert got(rig) == [f"Bearer {TOKEN}"] * 2
