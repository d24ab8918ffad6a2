"""A target that is down, slow, gone or limited, on a real broker: what its lane does, and what the other replicas learn of it."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

from tas_mcp import status, subjects
from tas_mcp.documents import document
from tas_mcp.status import Status
from tests.services.forward.rig import Rig, forwarding
from tests.shared.rig import until

LATER: dict[str, Any] = {"schedule": ["1h"]}


async def shared(rig: Rig, target_id: str) -> Status:
    """What the bucket says."""
    key = subjects.bucket_key(subjects.STATUS_BUCKET, target_id)
    found = await rig.broker.jetstream.last_of(subjects.bucket_stream(subjects.STATUS_BUCKET), [key])
    return status.decode(document(found[0]).value) if found else Status()


async def set_status(rig: Rig, target_id: str, value: Status) -> None:
    await rig.broker.publisher.store(subjects.bucket_key(subjects.STATUS_BUCKET, target_id), status.encode(value))


def policy(cooldown: str) -> dict[str, Any]:
    return {"failures": 5, "cooldown": cooldown, "max_cooldown": "1h"}


async def test_a_target_that_is_down_is_left_alone_and_its_queue_kept(rig: Rig) -> None:
    await rig.save("a", config={"retry": LATER, "concurrency": 2, "breaker": policy("1h")})
    rig.receiver.statuses["a"] = lambda _: 500
    await rig.owe("a", *range(1, 31))
    async with forwarding(rig):
        await until(lambda: len(rig.receiver.seen) >= 5)

        async def told() -> bool:
            return (await shared(rig, "a")).open_until > time.time() + 3500

        await until(told)
        assert len(rig.receiver.seen) <= 6, "one more than the fifth may have been under way"
        assert (await shared(rig, "a")).last_error == "the target answered 500: so it is"
        assert await rig.queued("a") + len(await rig.parked("a")) == 30


async def test_after_the_cooldown_one_probe_decides(rig: Rig) -> None:
    await rig.save("a", config={"retry": LATER, "concurrency": 4, "breaker": policy("300ms")})
    rig.receiver.statuses["a"] = lambda number: 500 if number <= 8 else 200
    await rig.owe("a", *range(1, 31))
    async with forwarding(rig):
        await until(lambda: len(rig.receiver.seen) >= 9)

        async def drained() -> bool:
            return await rig.queued("a") == 0

        await until(drained)
        assert len(rig.receiver.seen) == 30, "each was tried once: what a closed gate gives back is no attempt"

        async def closed() -> bool:
            found = await shared(rig, "a")
            return found.open_until == 0.0 and found.last_success > 0

        await until(closed)


async def test_refusals_and_calls_for_patience_do_not_trip_it(rig: Rig) -> None:
    await rig.save("a", config={"retry": LATER, "concurrency": 1, "breaker": policy("1h")})
    rig.receiver.statuses["a"] = lambda number: (404, 429)[number % 2]
    await rig.owe("a", *range(1, 31))
    async with forwarding(rig):
        await until(lambda: len(rig.receiver.seen) == 30)


async def test_of_three_replicas_one_probes(rig: Rig) -> None:
    await rig.save("a", config={"retry": LATER, "breaker": policy("1h"), "timeout": "20s"})
    await set_status(rig, "a", Status(open_until=time.time() + 1.0))
    rig.receiver.held["a"] = asyncio.Event()
    await rig.owe("a", *range(1, 31))
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(forwarding(rig))

        async def probed() -> bool:
            return rig.receiver.busy["a"] == 1 and (await shared(rig, "a")).probe_until > time.time() + 20

        await until(probed)
        await rig.save("b")
        await rig.owe("b", *range(1, 31))
        await until(lambda: len(rig.receiver.got("b")) == 30)
        assert rig.receiver.most["a"] == 1
        rig.receiver.held.pop("a").set()
        await until(lambda: len(rig.receiver.got("a")) == 30)


async def test_a_target_that_is_gone_is_sent_nothing_until_it_is_enabled(rig: Rig) -> None:
    await rig.save("a", config={"concurrency": 1})
    rig.receiver.statuses["a"] = lambda number: 410 if number == 1 else 200
    await rig.owe("a", 1, 2, 3)
    async with forwarding(rig):

        async def gone() -> bool:
            return (await shared(rig, "a")).gone

        await until(gone)

        async def recorded() -> bool:
            return await rig.outcomes("a") == [(1, 1, "gone", 410)]

        await until(recorded)
        assert await rig.queued("a") == 3
        assert await rig.dead("a") == []
    async with forwarding(rig):  # a restart does not forget it
        await rig.save("b")
        await rig.owe("b", 1)
        await until(lambda: rig.receiver.got("b") == ["e1"])
        assert len(rig.receiver.got("a")) == 1
        await set_status(rig, "a", Status())
        await until(lambda: sorted(rig.receiver.got("a")[1:]) == ["e1", "e2", "e3"])


async def test_what_is_too_old_is_dead_and_what_would_become_so_too(rig: Rig) -> None:
    await rig.save("old", config={"expires": "1h"})
    await rig.owe("old", 1)  # events of the rig were accepted in 1970
    await rig.save("a", config={"expires": "10m", "retry": LATER})
    rig.receiver.statuses["a"] = lambda _: 500
    await rig.owe("a", 1, redriven_at=time.time())
    async with forwarding(rig):
        old = (await until(lambda: rig.dead("old")))[0]
        assert (old.reason, old.delivery.attempts) == ("expired", [])
        assert rig.receiver.got("old") == []
        letter = (await until(lambda: rig.dead("a")))[0]
        assert (letter.reason, [each.status for each in letter.delivery.attempts]) == ("expired", [500])


async def test_a_rate_is_kept(rig: Rig) -> None:
    await rig.save("a", config={"rate_limit": {"requests_per_second": 50, "burst": 5}})
    async with forwarding(rig):
        began = time.monotonic()
        await rig.owe("a", *range(1, 36))
        await until(lambda: len(rig.receiver.seen) == 35)
        assert time.monotonic() - began > 29 / 50, "30 beyond the burst, at 50 a second"


async def test_a_changed_target_gets_a_new_chance_at_once(rig: Rig) -> None:
    config = {"retry": LATER, "concurrency": 1, "breaker": policy("1h")}
    await rig.save("a", path="down", config=config)
    rig.receiver.statuses["down"] = lambda _: 500
    await rig.owe("a", *range(1, 11))
    async with forwarding(rig):

        async def told() -> bool:
            return (await shared(rig, "a")).open_until > time.time()

        await until(told)
        await rig.save("a", path="up", config=config)
        await until(lambda: len(rig.receiver.got("up")) == 5)


async def test_without_the_bucket_a_lane_goes_by_its_own_breaker(rig: Rig) -> None:
    await rig.broker.jetstream.call(f"STREAM.DELETE.{subjects.bucket_stream(subjects.STATUS_BUCKET)}")
    await rig.save("a", config={"retry": LATER, "concurrency": 1, "breaker": policy("200ms")})
    rig.receiver.statuses["a"] = lambda number: 500 if number <= 6 else 200
    await rig.owe("a", *range(1, 21))
    async with forwarding(rig):
        await until(lambda: len(rig.receiver.seen) == 20)
