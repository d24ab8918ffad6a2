"""Forward is killed (SIGKILL) at each step of a delivery: each is delivered or dead all the same, and no letter is doubled."""

import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import Program
from tests.nats_server import free_port
from tests.services.forward.killed import POINTS
from tests.services.forward.rig import LOOPBACK, Rig, forwarding
from tests.shared.rig import until

SEQS = range(1, 11)
IDS = [f"e{seq}" for seq in SEQS]
PATIENT: dict[str, Any] = {"retry": {"schedule": ["100ms"] * 20}, "breaker": {"enabled": False}}
START_SECONDS = 30.0


async def settled(rig: Rig) -> bool:
    return all([await rig.settled(target_id) for target_id in ("fine", "shaky", "refusing")])


@pytest.mark.parametrize("calls", [1, 4])
@pytest.mark.parametrize("point", POINTS)
async def test_nothing_is_lost_and_no_letter_doubled_by_a_kill(rig: Rig, tmp_path: Path, point: str, calls: int) -> None:
    rig.receiver.statuses["shaky"] = lambda number: 503 if number <= len(SEQS) else 200
    rig.receiver.statuses["refusing"] = lambda _: 422
    for target_id in ("fine", "shaky", "refusing"):
        await rig.save(target_id, lane=False, config=PATIENT)
        await rig.broker.open_lane(target_id, target_ack_wait_seconds=1)
        await rig.owe(target_id, *SEQS)
    command = [sys.executable, "-m", "tests.services.forward.killed", point, str(calls)]
    environ = {"TAS_NATS_URL": rig.url, "TAS_OPS_PORT": str(free_port()), "TAS_ALLOWED_NETWORKS": LOOPBACK}
    program = Program("forward", command, environ, tmp_path / "forward.log")
    try:
        program.start()
        assert await program.ended(START_SECONDS) == -signal.SIGKILL, program.tail()
    finally:
        program.kill()
    async with forwarding(rig):
        await until(lambda: settled(rig), 30)
    assert set(rig.receiver.got("fine")) == set(IDS)
    letters = Counter((letter.target_id, letter.event_id, letter.reason) for letter in await rig.dead())
    assert letters == Counter(("refusing", event_id, "refused") for event_id in IDS)
    for target_id, result in (("fine", "delivered"), ("shaky", "delivered"), ("refusing", "dead")):
        ends = {(seq, found) for seq, _, found, _ in await rig.outcomes(target_id) if found != "retrying"}
        assert ends == {(seq, result) for seq in SEQS}
