"""Health checks on a real broker: what a lane learns of a target without a delivery, and what it does about it."""

import time
from typing import Any

from tests.services.forward.rig import Rig, forwarding
from tests.services.forward.test_gate import LATER, policy, shared
from tests.shared.rig import until


def checked(path: str, **config: Any) -> dict[str, Any]:
    return {**config, "health_check": {"path": f"/healthz/{path}", "interval": "100ms"}}


async def test_what_a_check_says_is_known_though_nothing_is_delivered(rig: Rig) -> None:
    await rig.save("a", config=checked("a"))

    async def well() -> bool:
        found = await shared(rig, "a")
        return found.healthy is True and abs(found.checked_at - time.time()) < 10

    async def unwell() -> bool:
        found = await shared(rig, "a")
        return found.healthy is False and found.last_error == "the health check was answered with 503"

    async with forwarding(rig):
        await until(well)
        rig.receiver.health["a"] = 503
        await until(unwell)


async def test_a_good_check_while_the_breaker_is_open_has_one_delivery_tried_at_once(rig: Rig) -> None:
    rig.receiver.health["a"] = 503
    rig.receiver.statuses["a"] = lambda number: 500 if number <= 8 else 200
    await rig.save("a", config=checked("a", retry=LATER, concurrency=1, breaker=policy("1h")))
    await rig.owe("a", *range(1, 31))

    async def is_open() -> bool:
        return (await shared(rig, "a")).open_until > time.time()

    async def drained() -> bool:
        return await rig.queued("a") == 0

    async with forwarding(rig):
        await until(is_open)
        before = len(rig.receiver.seen)
        assert before <= 5, "bad checks may have opened it before five deliveries failed"
        rig.receiver.health["a"] = 200
        await until(drained)
        assert len(rig.receiver.seen) == 30, "each was tried once: a probe that failed closed the gate again"
        assert len(await rig.parked("a")) == 8


async def test_bad_checks_open_the_breaker_of_an_idle_target(rig: Rig) -> None:
    rig.receiver.health["a"] = 503
    await rig.save("a", config=checked("a", breaker=policy("1h")))

    async def is_open() -> bool:
        return (await shared(rig, "a")).open_until > time.time() + 3500

    async with forwarding(rig):
        await until(is_open)
        await rig.owe("a", 1)
        await rig.save("b")
        await rig.owe("b", 1)
        await until(lambda: rig.receiver.got("b"))
        assert rig.receiver.got("a") == []


async def test_a_paused_target_is_not_asked_and_a_changed_one_by_its_new_document(rig: Rig) -> None:
    await rig.save("a", paused=True, config=checked("a"))
    await rig.save("b", config=checked("b"))
    async with forwarding(rig):
        await until(lambda: rig.receiver.checks["b"] >= 5)
        assert rig.receiver.checks["a"] == 0
        await rig.save("a", config=checked("moved"))
        await until(lambda: rig.receiver.checks["moved"] >= 2)
        assert rig.receiver.checks["a"] == 0
