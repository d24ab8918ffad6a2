"""(d) End to end: ingest, process, forward, control and the broker; the time until a sink has all; then latency at 1,000/s."""

import time

from bench import load
from bench.stage import BOTH, OTHER, SYSTEM, Stage, get, stage
from bench.table import Row

EVENTS = 50_000


def measure(seconds: float, rounds: int) -> list[Row]:
    rows = _measure("end to end, on both cores", BOTH, BOTH, 5000, seconds)
    return rows + _measure("end to end, three tiers on one core", SYSTEM, OTHER, None, seconds)


def _measure(what: str, system: set[int], other: set[int], must: float | None, seconds: float) -> list[Row]:
    with stage() as here:
        url = _start(here, system, other)
        began = time.perf_counter()
        load.generate(here, here.http_port, count=EVENTS, connections=64, seconds=120)
        stats = _drained(url, EVENTS)
        took = time.perf_counter() - began
        lost = EVENTS - int(stats["distinct"])
        get(url + "/reset", "POST")
        load.generate(here, here.http_port, rate=1000, seconds=4 * seconds)
        paced = _drained(url, int(4 * seconds * 1000 * 0.99))
        memory = {name: most for name, (_, most) in here.memory().items() if name in ("ingest", "process", "forward", "control")}
    note = f"{EVENTS} events, {lost} lost, {took:.1f} s, bundled generator"
    return [
        Row(what=what, value=EVENTS / took, unit="events/s", must=must, note=note),
        Row(what=f"{what}: at 1,000/s, p50", value=paced["p50_ms"], unit="ms", must=5, at_most=True),
        Row(what=f"{what}: at 1,000/s, p99", value=paced["p99_ms"], unit="ms", must=20, at_most=True),
        Row(what=f"{what}: memory of the largest service", value=max(memory.values()), unit="MiB", must=120, at_most=True,
            note=", ".join(f"{name} {most:.0f}" for name, most in memory.items())),
    ]  # fmt: skip


def _start(here: Stage, system: set[int], other: set[int]) -> str:
    here.broker(other)
    url = f"http://127.0.0.1:{here.sink(other)}"
    here.target({"id": "sink", "type": "webhook", "endpoint": url + "/hook"})
    for name in ("ingest", "process", "forward"):
        here.service(name, system)
    for name in ("ingest", "process", "forward"):
        here.ready(name)
    return url


def _drained(url: str, events: int) -> dict[str, float]:
    """The sink's figures once it has that many different events."""
    end = time.monotonic() + 60
    while True:
        stats: dict[str, float] = get(url + "/stats")
        if stats["distinct"] >= events or time.monotonic() > end:
            return stats
        time.sleep(0.1)
