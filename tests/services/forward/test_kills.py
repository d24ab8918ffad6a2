"""Forward is killed (SIGKILL) at each step of a delivery, or of a batch: each is delivered or dead all the same, and no letter is
doubled."""

import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tas_mcp.v1 import mcp_pb2
from tests.e2e.system import Program
from tests.ports import free_port
from tests.services.forward.killed import POINTS
from tests.services.forward.rig import LOOPBACK, Rig, forwarding
from tests.services.forward.targets.grpc_server import accepted, grpc_serving
from tests.shared.rig import until

SEQS = range(1, 11)
IDS = [f"e{seq}" for seq in SEQS]
PATIENT: dict[str, Any] = {"retry": {"schedule": ["100ms"] * 20}, "breaker": {"enabled": False}}
START_SECONDS = 60.0


ALONE = [point for point in POINTS if "batch" not in point]
MANY = range(1, 21)
SHAKY = frozenset(f"e{seq}" for seq in MANY if seq % 10 in (5, 6, 7))
UNWANTED = frozenset(f"e{seq}" for seq in MANY if seq % 10 in (8, 9, 0))
BATCH: dict[str, Any] = {**PATIENT, "batch_size": 10, "batch_timeout": "1s"}


async def killed_at(rig: Rig, folder: Path, point: str, calls: int) -> None:
    """Run forward until it is killed."""
    command = [sys.executable, "-m", "tests.services.forward.killed", point, str(calls)]
    environ = {"TAS_NATS_URL": rig.url, "TAS_OPS_PORT": str(free_port()), "TAS_ALLOWED_NETWORKS": LOOPBACK}
    program = Program("forward", command, environ, folder / "forward.log")
    try:
        program.start()
        assert await program.ended(START_SECONDS) == -signal.SIGKILL, program.tail()
    finally:
        program.kill()


async def ends(rig: Rig, target_id: str) -> set[tuple[int, str]]:
    """What became of each delivery at last."""
    return {(seq, found) for seq, _, found, _ in await rig.outcomes(target_id) if found != "retrying"}


async def settled(rig: Rig) -> bool:
    return all([await rig.settled(target_id) for target_id in ("fine", "shaky", "refusing")])


@pytest.mark.parametrize("calls", [1, 4])
@pytest.mark.parametrize("point", ALONE)
async def test_nothing_is_lost_and_no_letter_doubled_by_a_kill(rig: Rig, tmp_path: Path, point: str, calls: int) -> None:
    rig.receiver.statuses["shaky"] = lambda number: 503 if number <= len(SEQS) else 200
    rig.receiver.statuses["refusing"] = lambda _: 422
    for target_id in ("fine", "shaky", "refusing"):
        await rig.save(target_id, lane=False, config=PATIENT)
        await rig.broker.open_lane(target_id, target_ack_wait_seconds=1)
        await rig.owe(target_id, *SEQS)
    await killed_at(rig, tmp_path, point, calls)
    async with forwarding(rig):
        await until(lambda: settled(rig))
    assert set(rig.receiver.got("fine")) == set(IDS)
    letters = Counter((letter.target_id, letter.event_id, letter.reason) for letter in await rig.dead())
    assert letters == Counter(("refusing", event_id, "refused") for event_id in IDS)
    for target_id, result in (("fine", "delivered"), ("shaky", "delivered"), ("refusing", "dead")):
        assert await ends(rig, target_id) == {(seq, result) for seq in SEQS}


def mixed(tried: Counter[str]) -> Callable[[mcp_pb2.EventBatch], mcp_pb2.IngestAck]:
    """Of each ten four are taken, three only when they are tried again, three never."""

    def answer(batch: mcp_pb2.EventBatch) -> mcp_pb2.IngestAck:
        found = accepted(batch)
        for result in found.results:
            tried[result.event_id] += 1
            if result.event_id in UNWANTED:
                result.status = "rejected"
            elif result.event_id in SHAKY and tried[result.event_id] == 1:
                result.status = "unavailable"
        return found

    return answer


@pytest.mark.parametrize(
    ("point", "calls"),
    [
        ("before the batch", 2),
        ("after the batch", 1),
        ("after the batch", 2),
        ("before parking", 2),
        ("after parking", 2),
        ("before the dead letter", 2),
        ("after the dead letter", 2),
        ("before the outcome is stored", 1),
        ("after that, before the ack", 1),
        ("after that, before the ack", 3),
    ],
)
async def test_nothing_of_a_batch_is_lost_by_a_kill(rig: Rig, tmp_path: Path, point: str, calls: int) -> None:
    tried: Counter[str] = Counter()
    async with grpc_serving() as server:
        server.batch, server.unwanted = mixed(tried), UNWANTED
        endpoint = f"grpc://127.0.0.1:{server.port}"
        await rig.save("many", lane=False, type="grpc", endpoint=endpoint, config=BATCH)
        await rig.broker.open_lane("many", target_ack_wait_seconds=1)
        await rig.owe("many", *MANY)
        await killed_at(rig, tmp_path, point, calls)
        async with forwarding(rig):
            await until(lambda: rig.settled("many"))
        taken = set(tried) | {each.event_id for each in server.seen}
    assert taken >= {f"e{seq}" for seq in MANY} - UNWANTED
    letters = Counter((letter.event_id, letter.reason) for letter in await rig.dead())
    assert letters == Counter((event_id, "refused") for event_id in UNWANTED)
    assert await ends(rig, "many") == {(seq, "dead" if f"e{seq}" in UNWANTED else "delivered") for seq in MANY}
