"""(f) Many targets on one forward process, all of them idle: the share of a core and the memory that they cost."""

import time
from concurrent.futures import ThreadPoolExecutor

from bench.stage import OTHER, SYSTEM, Stage, stage
from bench.table import Row

TARGETS = 1000
AT_ONCE = 20
"""Each change waits a moment for a process tier that is not there."""
SETTLE_SECONDS = 5.0
"""What the start of a thousand lanes leaves to do is done by then."""
LOOK_SECONDS = 30.0
"""Longer than what happens most rarely takes to come again: a pull's expiry, the sweep of connections."""


def measure(seconds: float, rounds: int) -> list[Row]:
    with stage() as here:
        here.broker(OTHER)
        here.service("forward", SYSTEM)
        here.ready("forward")
        alone, before = _cost(here, seconds)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda number: _add(here, number), range(TARGETS)))
        here.ready("forward")
        time.sleep(SETTLE_SECONDS)
        share, after = _cost(here, LOOK_SECONDS)
    return [
        Row(what=f"forward: {TARGETS} idle targets", value=100 * (share - alone), unit="% of a core", must=5, at_most=True),
        Row(what=f"forward: memory of {TARGETS} idle targets", value=after - before, unit="MiB", must=100, at_most=True),
    ]  # fmt: skip


def _add(here: Stage, number: int) -> None:
    here.target({"id": f"idle-{number}", "type": "webhook", "endpoint": f"http://127.0.0.1:9/{number}"})


def _cost(here: Stage, seconds: float) -> tuple[float, float]:
    """The share of a core that forward takes, and its MiB at the end."""
    began, used = time.monotonic(), here.cpu_seconds("forward")
    time.sleep(seconds)
    return (here.cpu_seconds("forward") - used) / (time.monotonic() - began), here.mib("forward")
