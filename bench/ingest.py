"""(a) Ingest: one process on one core, against a bare aiohttp handler that decodes the same body and answers."""

import sys
from statistics import median

from bench import load
from bench.stage import OTHER, SYSTEM, Stage, free_port, stage, wait_for, wait_for_port
from bench.table import Row


def measure(seconds: float, rounds: int) -> list[Row]:
    with stage() as here:
        _start(here)
        floor_port = free_port()
        here.start("floor", [sys.executable, "-m", "bench.floors", "handler", str(floor_port)], SYSTEM)
        wait_for_port(floor_port)
        floors, ours = [], []
        for _ in range(rounds):
            floors.append(load.flood(here, floor_port, seconds)["rate"])
            ours.append(load.flood(here, here.http_port, seconds))
        floor, rate = median(floors), median(result["rate"] for result in ours)
        refused = sum(result["refused"] for result in ours)
        here.stop("floor")
        paced = [load.generate(here, here.http_port, rate=10_000, seconds=seconds) for _ in range(rounds)]
        batch = [load.generate(here, here.http_port, batch=100, path="/api/v1/events/batch", seconds=seconds, connections=32)]
        most = here.memory()["ingest"][1]
    p50, p99 = (median(result[key] for result in paced) for key in ("p50_ms", "p99_ms"))
    note = f"{load.NAME}, {refused} refused"
    return [
        Row(what="ingest: single events, 64 connections", value=rate, unit="events/s", floor=floor,
            floor_what="bare aiohttp handler", must=0.62 * floor, note=note),
        Row(what="ingest: at a steady 10,000/s, p50", value=p50, unit="ms", must=2, at_most=True,
            note=f"reached {median(result['rate'] for result in paced):,.0f}/s"),
        Row(what="ingest: at a steady 10,000/s, p99", value=p99, unit="ms", must=10, at_most=True),
        Row(what="ingest: batches of 100", value=median(result["rate"] for result in batch) * 100, unit="events/s", must=80_000),
        Row(what="ingest: memory", value=most, unit="MiB", must=120, at_most=True),
    ]  # fmt: skip


def _start(here: Stage) -> None:
    here.broker(OTHER)
    here.service("ingest", SYSTEM)
    here.ready("ingest")
    wait_for(f"http://127.0.0.1:{here.http_port}/ready")
