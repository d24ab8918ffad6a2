"""Backtest: rules with three conditions on 100,000 stored events, and what ingest loses meanwhile."""

import threading
import time
from statistics import median
from typing import Any

from bench import load
from bench.stage import BOTH, Stage, get, stage, wait_for
from bench.table import Row

STORED = 100_000
RULE = {
    "conditions": [
        {"field": "event_type", "operator": "starts_with", "value": "order."},
        {"field": "data.amount", "operator": "gt", "value": 10},
        {"field": "metadata.region", "operator": "in", "value": ["eu", "us"], "negate": True},
    ]
}


def measure(seconds: float, rounds: int) -> list[Row]:
    with stage() as here:
        here.broker(BOTH)
        here.service("ingest", BOTH)
        here.ready("ingest")
        wait_for(f"http://127.0.0.1:{here.http_port}/ready")
        while here.stats()["streams"]["EVENTS"]["messages"] < STORED:
            load.generate(here, here.http_port, batch=100, path="/api/v1/events/batch", seconds=2, connections=8)
        quiet, alone, alive, together = [], [], [], []
        for _ in range(rounds):
            alone.append(_backtest(here))
            quiet.append(load.flood(here, here.http_port, seconds)["rate"])
            meanwhile = _Meanwhile(here)
            alive.append(load.flood(here, here.http_port, seconds)["rate"])
            together.append(meanwhile.end())
    evaluated = f"{STORED:,} events"
    return [
        Row(what="backtest: alone", value=median(alone), unit="s", must=10, at_most=True, note=evaluated),
        Row(what="backtest: while ingest is busy", value=median(together), unit="s", must=10, at_most=True, note=evaluated),
        Row(what="backtest: ingest meanwhile", value=median(alive), unit="events/s", floor=median(quiet),
            floor_what="ingest without it", must=0.8 * median(quiet)),
    ]  # fmt: skip


def _backtest(here: Stage) -> float:
    """Seconds that it took."""
    began = time.perf_counter()
    url = f"http://127.0.0.1:{here.control_port}/api/v1/rules:backtest"
    answer: Any = get(url, "POST", {"rule": RULE, "last": STORED}, timeout=60)
    if (answer["evaluated"], answer["complete"]) != (STORED, True):
        raise RuntimeError(f"the backtest was cut: {answer['evaluated']} events")
    return time.perf_counter() - began


class _Meanwhile:
    """Backtests one after another in a thread, until ``end``, which answers the seconds that one took."""

    def __init__(self, here: Stage) -> None:
        self._here = here
        self._took: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._took.append(_backtest(self._here))

    def end(self) -> float:
        self._stop.set()
        self._thread.join()
        return median(self._took)
