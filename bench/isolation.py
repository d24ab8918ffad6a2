"""(g) Ten targets on one forward process, of which one hangs and one fails: what the other eight notice of it.

Rounds without and with the two come in pairs, in turns which is first, and what counts is the median of the ratios: so a machine
that others load too is the same for both. The two that fail are new in each round, as their breakers would be open.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

from bench import load
from bench.stage import OTHER, SYSTEM, Stage, get, stage
from bench.table import Row

WELL = 8
EVENTS = 1000
PACE = 100
"""Events a second, each for all ten, while latency is measured."""
PACED_SECONDS = 3.0
PAIRS = 3
"""Of rounds, for each that is asked for."""
DRAIN_SECONDS = 60.0


class Round(NamedTuple):
    """Deliveries a second to the well ones, of events sent at once; their p99, from sending on, at a steady pace, in ms."""

    rate: float
    p99: float


def measure(seconds: float, rounds: int) -> list[Row]:
    with stage() as here:
        here.broker(OTHER)
        url = f"http://127.0.0.1:{here.sink(OTHER)}"
        for number in range(WELL):
            here.target(_target(f"well-{number}", f"{url}/well-{number}"))
        pairs = PAIRS * rounds
        for number in range(pairs):
            for part in ("burst", "paced"):
                for name, fine, bad in (("first", "fine", "hangs"), ("second", "fine", "fails")):
                    here.target(_target(f"{name}-without-{number}-{part}", f"{url}/aside/{fine}", f"without.{number}.{part}"))
                    here.target(_target(f"{name}-with-{number}-{part}", f"{url}/aside/{bad}", f"with.{number}.{part}"))
        for name in ("ingest", "process", "forward"):
            here.service(name, SYSTEM)
        for name in ("ingest", "process", "forward"):
            here.ready(name)
        _round(here, url, "warm")
        found: dict[str, list[Round]] = {"without": [], "with": []}
        for number in range(pairs):
            for kind in ("without", "with") if number % 2 else ("with", "without"):
                found[kind].append(_round(here, url, f"{kind}.{number}"))
    return [
        _row("throughput", "/s", found, lambda each: each.rate, must=0.9),
        _row("p99", "ms", found, lambda each: each.p99, must=1.2, at_most=True),
    ]


def _row(what: str, unit: str, found: dict[str, list[Round]], of: Callable[[Round], float], **bound: Any) -> Row:
    without, beside = (list(map(of, found[kind])) for kind in ("without", "with"))
    ratios = sorted(bad / fine for fine, bad in zip(without, beside, strict=True))
    return Row(
        what=f"isolation: {what} of 8 targets beside 2 bad ones",
        value=median(ratios),
        unit="of without",
        note=f"median of {len(ratios)} pairs, {ratios[0]:.2f} to {ratios[-1]:.2f}; without {median(without):,.1f} {unit}",
        **bound,
    )


def _target(name: str, endpoint: str, event_type: str = "") -> dict[str, Any]:
    rules = (
        [{"id": "mine", "conditions": [{"field": "event_type", "operator": "eq", "value": event_type}]}] if event_type else None
    )
    return {"id": name, "type": "webhook", "endpoint": endpoint, "rules": rules}


def _round(here: Stage, url: str, event_type: str) -> Round:
    get(url + "/reset", "POST")
    load.generate(here, here.http_port, batch=100, path="/api/v1/events/batch", count=EVENTS // 100, connections=8, seconds=60,
                  event_type=f"{event_type}.burst")  # fmt: skip
    stats = _received(url, WELL * EVENTS)
    rate = stats["received"] / stats["seconds"]
    get(url + "/reset", "POST")
    load.generate(here, here.http_port, rate=PACE, seconds=PACED_SECONDS, event_type=f"{event_type}.paced")
    return Round(rate, _received(url, int(0.99 * WELL * PACE * PACED_SECONDS))["p99_ms"])


def _received(url: str, deliveries: int) -> dict[str, float]:
    end = time.monotonic() + DRAIN_SECONDS
    while True:
        stats: dict[str, float] = get(url + "/stats")
        if stats["received"] >= deliveries:
            return stats
        if time.monotonic() > end:
            raise TimeoutError(f"{stats['received']} of {deliveries} deliveries within {DRAIN_SECONDS:g} s")
        time.sleep(0.1)
