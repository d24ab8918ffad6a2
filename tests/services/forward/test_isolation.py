"""Ten targets of one forward process, of which one hangs and one fails: the other eight do not notice."""

import asyncio
import time

from tas_mcp.targets import BreakerPolicy
from tests.services.forward.rig import Rig, forwarding
from tests.services.forward.test_gate import LATER, shared
from tests.shared.rig import until

WELL = [f"well-{number}" for number in range(8)]
SEQS = range(1, 51)
IDS = sorted(f"e{seq}" for seq in SEQS)
POLICY = BreakerPolicy()
OPEN_SECONDS = 20.0
"""How long after its last failure a breaker is open at the latest."""


async def test_two_bad_targets_of_ten_keep_nothing_from_the_others_and_are_soon_left_alone(rig: Rig) -> None:
    rig.receiver.held["hangs"] = asyncio.Event()
    rig.receiver.statuses["fails"] = lambda _: 500
    for target_id in ("hangs", "fails", *WELL):
        await rig.save(target_id, config={"retry": LATER, "timeout": "300ms" if target_id == "hangs" else "15s"})
        await rig.owe(target_id, *SEQS)
    async with forwarding(rig):
        for target_id in WELL:
            await until(lambda target_id=target_id: sorted(rig.receiver.got(target_id)) == IDS)  # type: ignore[misc]
        for target_id in ("hangs", "fails"):

            async def is_open(target_id: str = target_id) -> bool:
                return (await shared(rig, target_id)).open_until > time.time()

            async def recorded(target_id: str = target_id) -> bool:
                return len(await rig.records(target_id)) >= POLICY.failures

            await until(is_open)
            await until(recorded)
            opened_at = (await shared(rig, target_id)).open_until - POLICY.cooldown
            ended = sorted(each.at + each.duration_ms / 1e3 for each in await rig.records(target_id))
            assert opened_at - ended[POLICY.failures - 1] < OPEN_SECONDS
            assert POLICY.failures <= len(ended) < POLICY.failures + rig.receiver.most[target_id]
            assert await rig.queued(target_id) + len(await rig.parked(target_id)) == len(SEQS)
        rig.receiver.held["hangs"].set()
