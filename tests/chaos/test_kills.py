"""Promise 2, for real: processes are killed at random under load, and every acknowledged event reaches each of its targets, or is
in DEAD.

    make chaos                                            300 kills, about 7 minutes
    TAS_CHAOS_KILLS=1000 TAS_CHAOS_SEED=7 make chaos      more, and the same plan again
"""

import os
import time
from pathlib import Path

import pytest

from tests.chaos import campaign
from tests.chaos.faults import plan

RATE = 400.0


@pytest.mark.chaos
@pytest.mark.timeout(0)
async def test_kills(tmp_path: Path) -> None:
    kills = int(os.environ.get("TAS_CHAOS_KILLS", "300"))
    seed = int(os.environ.get("TAS_CHAOS_SEED", "0")) or time.time_ns() % 1_000_000
    result = await campaign.run(tmp_path, kills, seed, RATE, lambda text: print(text, flush=True))
    print(result, flush=True)
    assert result.ok, str(result)
    assert result.verdict.counts.ok > kills  # it was under load


def test_a_seed_is_a_plan() -> None:
    assert plan(3, 300) == plan(3, 300) != plan(4, 300)


def test_a_plan_has_its_kills_and_its_quiet_periods() -> None:
    faults = plan(1, 1000)
    kinds = [fault.kind for fault in faults]
    assert kinds.count("kill") == 1000
    assert 0.2 < kinds.count("quiet") / len(kinds) < 0.3
    assert 0 < kinds.count("pause") < 200
    assert {fault.victim for fault in faults} == {"", "nats", "control", "process", "forward", "ingest"}
