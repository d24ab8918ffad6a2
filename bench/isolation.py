"""(g) Ten targets on one forward process, of which one hangs and one fails: what the other eight notice of it."""

import time
from statistics import median

from bench import load
from bench.stage import OTHER, SYSTEM, Stage, get, stage
from bench.table import Row

WELL = 8
EVENTS = 2000
PACE = 100
"""Events a second, each for all ten, while latency is measured."""
PACED_SECONDS = 4.0
MOST_ROUNDS = 2
"""Beyond that it would take longer than a minute."""
DRAIN_SECONDS = 30.0


def measure(seconds: float, rounds: int) -> list[Row]:
    with stage() as here:
        here.broker(OTHER)
        url = f"http://127.0.0.1:{here.sink(OTHER)}"
        for number in range(WELL):
            here.target(_target(f"well-{number}", f"{url}/well"))
        for name, where in (("hangs", "fine"), ("fails", "fine")):
            here.target(_target(name, f"{url}/aside/{where}"))
        for name in ("ingest", "process", "forward"):
            here.service(name, SYSTEM)
        for name in ("ingest", "process", "forward"):
            here.ready(name)
        _delivered(here, url)  # warm
        fine = [_delivered(here, url) for _ in range(min(rounds, MOST_ROUNDS))]
        for name in ("hangs", "fails"):
            changed = _target(name, f"{url}/aside/{name}")
            get(f"http://127.0.0.1:{here.control_port}/api/v1/forwarding/targets/{name}", "PUT", changed)
        bad = [_delivered(here, url) for _ in range(min(rounds, MOST_ROUNDS))]
    (rate, p99), (rate_beside, p99_beside) = _medians(fine), _medians(bad)
    return [
        Row(what="isolation: 8 targets beside 2 bad ones", value=rate_beside, unit="/s", floor=rate, floor_what="beside 2 more",
            must=0.9 * rate),
        Row(what="isolation: the same, p99", value=p99_beside, unit="ms", floor=p99, floor_what="beside 2 more", must=1.2 * p99,
            at_most=True),
    ]  # fmt: skip


def _target(name: str, endpoint: str) -> dict[str, str]:
    return {"id": name, "type": "webhook", "endpoint": endpoint}


def _delivered(here: Stage, url: str) -> tuple[float, float]:
    """Deliveries a second to the well ones, of events sent at once; their p99 from sending to delivery at a steady pace, ms."""
    get(url + "/reset", "POST")
    load.generate(here, here.http_port, batch=100, path="/api/v1/events/batch", count=EVENTS // 100, connections=8, seconds=60)
    stats = _received(url, WELL * EVENTS)
    rate = stats["received"] / stats["seconds"]
    get(url + "/reset", "POST")
    load.generate(here, here.http_port, rate=PACE, seconds=PACED_SECONDS)
    return rate, _received(url, int(0.99 * WELL * PACE * PACED_SECONDS))["p99_ms"]


def _received(url: str, deliveries: int) -> dict[str, float]:
    end = time.monotonic() + DRAIN_SECONDS
    while True:
        stats: dict[str, float] = get(url + "/stats")
        if stats["received"] >= deliveries:
            return stats
        if time.monotonic() > end:
            raise TimeoutError(f"{stats['received']} of {deliveries} deliveries within {DRAIN_SECONDS:g} s")
        time.sleep(0.1)


def _medians(found: list[tuple[float, float]]) -> tuple[float, float]:
    rates, latencies = zip(*found, strict=True)
    return median(rates), median(latencies)
