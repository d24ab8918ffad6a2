"""Bad targets with long queues: what the forward process holds of them is bounded."""

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec import Raw

from tas_mcp import subjects
from tas_mcp.http import application, listening
from tas_mcp.messages import Delivery, encode
from tests.e2e.system import Program
from tests.ports import free_port
from tests.services.forward.rig import LOOPBACK, Rig, event
from tests.services.forward.test_gate import LATER
from tests.shared.rig import until

MIB = 1 << 20
QUEUED = 20_000
ANSWERED = 2_000
"""With 64 KiB each: nobody who kept them would stay small."""
GROWTH = 48 * MIB
"""Three lanes hold 1,000 deliveries of 1.5 KiB each, and what the first use of everything costs."""
CONFIG: dict[str, Any] = {"retry": LATER, "breaker": {"enabled": False}}


class Bad:
    """Answers ``/fails`` with 500 and much text, ``/hangs`` never."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self._body = b"x" * 65_536

    async def take(self, request: web.Request) -> web.Response:
        await request.read()
        self.asked[request.path[1:]] += 1
        if request.path == "/hangs":
            await asyncio.Event().wait()
        return web.Response(status=500, body=self._body)


def resident(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def owe_many(rig: Rig, target_id: str) -> None:
    for first in range(1, QUEUED, 1000):
        owed = (
            Delivery(event=Raw(encode(event(seq, b'"%s"' % (b"x" * 1024)))), event_seq=seq, revision=1, rule_id="r")
            for seq in range(first, first + 1000)
        )
        await asyncio.gather(*(rig.broker.publisher.store(subjects.deliveries(target_id), encode(each)) for each in owed))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc (Linux)")
async def test_bad_targets_with_long_queues_do_not_fill_the_memory(rig: Rig, tmp_path: Path) -> None:
    bad = Bad()
    environ = {"TAS_NATS_URL": rig.url, "TAS_OPS_PORT": str(free_port()), "TAS_ALLOWED_NETWORKS": LOOPBACK}
    forward = Program("forward", [sys.executable, "-m", "services.forward"], environ, tmp_path / "forward.log")
    app = application([web.post("/{path}", bad.take)], 10_000_000)
    async with listening(app, "127.0.0.1", 0, what="X", drain_seconds=0.1) as port:
        endpoints = {"hangs": f"http://127.0.0.1:{port}/hangs", "fails": f"http://127.0.0.1:{port}/fails"}
        endpoints["refuses"] = f"http://127.0.0.1:{free_port()}/"
        await rig.save("well")
        await rig.owe("well", 1)
        forward.start()
        try:
            await until(lambda: rig.receiver.got("well"))
            before = resident(forward.pid)
            for target_id, endpoint in endpoints.items():
                await rig.save(target_id, endpoint=endpoint, config=CONFIG)
                await owe_many(rig, target_id)
            await until(lambda: bad.asked["fails"] >= ANSWERED and bad.asked["hangs"])

            async def parked() -> bool:
                retries = subjects.all_retries("refuses")
                return await rig.broker.jetstream.count(subjects.DELIVERIES, retries) >= ANSWERED

            await until(parked)
            grown = resident(forward.pid) - before
        finally:
            forward.kill()
    assert grown < GROWTH, f"{grown / MIB:.0f} MiB more"
