"""Events over WebSockets: one process on one core, against a bare aiohttp handler that decodes the same frame and answers."""

import sys
from statistics import median
from typing import Any

from bench.stage import OTHER, SYSTEM, Stage, free_port, stage, wait_for_port
from bench.table import Row

CONNECTIONS, WINDOW = 8, 128


def measure(seconds: float, rounds: int) -> list[Row]:
    with stage() as here:
        here.broker(OTHER)
        here.service("ingest", SYSTEM)
        here.ready("ingest")
        floor_port = free_port()
        here.start("floor", [sys.executable, "-m", "bench.floors", "websocket", str(floor_port)], SYSTEM)
        wait_for_port(floor_port)
        floors, ours = [], []
        for _ in range(rounds):
            floors.append(_flood(here, floor_port, seconds)["rate"])
            ours.append(_flood(here, here.http_port, seconds))
        refused = sum(result["refused"] for result in ours)
    rate = median(result["rate"] for result in ours)
    return [
        Row(what=f"websocket: events, {CONNECTIONS} connections", value=rate, unit="events/s", floor=median(floors),
            floor_what="bare aiohttp WebSocket handler", must=15_000, note=f"{WINDOW} frames under way, {refused:g} refused"),
    ]  # fmt: skip


def _flood(here: Stage, port: int, seconds: float) -> dict[str, Any]:
    options = ["--port", str(port), "--seconds", str(seconds), "--connections", str(CONNECTIONS), "--window", str(WINDOW)]
    result: dict[str, Any] = here.run([sys.executable, "-m", "bench.frames", *options], OTHER)
    return result
