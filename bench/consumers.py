"""(i) What a delivery costs the broker with how many active consumers on one stream, and on four: from when on it pays to split.

``python -m bench.consumers JSON`` measures one case against the brokers that are there: a publisher, and as many pullers as there
are consumers, as forward's lanes have them."""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

import msgspec
import uvloop

from bench.stage import BOTH, OTHER, SYSTEM, Stage, cpu_seconds, stage, wait_for_port
from bench.table import Row
from tas_mcp.broker import BrokerError, Connection, JetStream, Publisher, Pulled, Puller
from tas_mcp.errors import Unavailable

RATE = 1000
"""Deliveries a second, each to another consumer."""
LIMIT = 100
AT_ONCE = 50
SETTLE_SECONDS = 2.0
PATIENCE_SECONDS = 20.0
NODES = ("one", "two", "three")


class Case(msgspec.Struct, kw_only=True, frozen=True):
    """``replicas`` of ``streams``, with ``consumers`` on all of them together."""

    replicas: int
    streams: int
    consumers: int
    memory: bool

    @property
    def name(self) -> str:
        streams = "a stream" if self.streams == 1 else f"{self.streams} streams"
        return f"R{self.replicas}, {self.consumers} on {streams}, {'memory' if self.memory else 'file'}"


ALONE = (
    *(Case(replicas=1, streams=1, consumers=n, memory=memory) for memory in (False, True) for n in (10, 100, 300, 1000, 2000)),
    *(Case(replicas=1, streams=4, consumers=2000, memory=memory) for memory in (False, True)),
)
CLUSTERED = tuple(
    Case(replicas=3, streams=1, consumers=n, memory=memory) for memory in (False, True) for n in (10, 100, 300, 1000)
)


def measure(seconds: float, rounds: int) -> list[Row]:
    return [*_measured(ALONE, seconds), *_measured(CLUSTERED, seconds)]


def _measured(cases: tuple[Case, ...], seconds: float) -> list[Row]:
    rows: list[Row] = []
    for case in cases:
        with stage() as here:
            found = _run(here, case, seconds)
        rows += [
            Row(what=f"{case.name}: a delivery", value=found["us"], unit="us of CPU",
                note=f"{found['rate']:.0f}/s, p50 {found['p50']:.1f} ms, p99 {found['p99']:.0f} ms, idle {found['idle']:.1f} %"),
        ]  # fmt: skip
        print(rows[-1].what, rows[-1].value, rows[-1].note, flush=True)
    return rows


def _run(here: Stage, case: Case, seconds: float) -> dict[str, float]:
    if case.replicas == 1:
        here.nats(OTHER)
        wait_for_port(here.nats_port)
        pids = [here.pid("nats")]
    else:
        here.cluster(BOTH, NODES)
        pids = [here.pid(name) for name in NODES]
    given = {"url": here.nats_url, "pids": pids, "seconds": seconds, "case": msgspec.to_builtins(case)}
    found: dict[str, float] = here.run([sys.executable, "-m", "bench.consumers", json.dumps(given)], SYSTEM)
    return found


async def load(url: str, pids: list[int], seconds: float, case: Case) -> dict[str, float]:
    """Microseconds of the brokers' CPU a delivery, with all that they do beside; the latency of deliveries in ms; the CPU while
    nothing comes, in %."""
    latencies: list[float] = []
    came = asyncio.Event()

    def take(pulled: Pulled) -> None:
        latencies.append((time.time_ns() - int(pulled.data[:20])) / 1e6)
        pulled.ack()
        came.set()

    connection = Connection(url.split(","), "bench")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(connection.running())
        await connection.ready()
        publisher = await stack.enter_async_context(Publisher(connection).running())
        await _made(JetStream(connection), case)
        for number in range(case.consumers):
            puller = Puller(connection, f"S{number % case.streams}", f"c{number}", take, limit=LIMIT)
            await stack.enter_async_context(puller.running())
        await asyncio.sleep(SETTLE_SECONDS)
        before, began = _used(pids), time.monotonic()
        await asyncio.sleep(seconds)
        idle = (_used(pids) - before) / (time.monotonic() - began)
        before, began = _used(pids), time.monotonic()
        sent = await _publish(publisher, case, seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(latencies) < sent:
                    came.clear()
                    await came.wait()
        took = time.monotonic() - began
        used = _used(pids) - before
        latencies.sort()
        found = {
            "us": 1e6 * used / len(latencies),
            "rate": len(latencies) / took,
            "p50": latencies[len(latencies) // 2],
            "p99": latencies[int(len(latencies) * 0.99)],
            "idle": 100 * idle,
        }
        stack.pop_all()  # the process ends: thousands of pulls need not be given back one by one
    return found


async def _made(jetstream: JetStream, case: Case) -> None:
    for number in range(case.streams):
        config = {"name": f"S{number}", "subjects": [f"s{number}.>"], "retention": "workqueue", "storage": "file",
                  "num_replicas": case.replicas, "max_consumers": 20_000}  # fmt: skip
        await _patiently(partial(jetstream.call, f"STREAM.CREATE.S{number}", config))
    gate = asyncio.Semaphore(AT_ONCE)

    async def make(number: int) -> None:
        stream = number % case.streams
        consumer = {"durable_name": f"c{number}", "ack_policy": "explicit", "filter_subject": f"s{stream}.{number}",
                    "max_ack_pending": 2000, "mem_storage": case.memory}  # fmt: skip
        async with gate:
            await _patiently(partial(jetstream.ensure_consumer, f"S{stream}", consumer))

    await asyncio.gather(*(make(number) for number in range(case.consumers)))


async def _patiently(step: Any) -> None:
    """A cluster needs a while to choose who leads."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            await step()
        except (Unavailable, BrokerError):
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.2)
        else:
            return


async def _publish(publisher: Publisher, case: Case, seconds: float) -> int:
    """At a steady rate, or as fast as the brokers take them, to each consumer in turn; how many."""
    began, sent = time.monotonic(), 0
    subjects = _subjects(case)
    while (passed := time.monotonic() - began) < seconds:
        while sent < passed * RATE and not publisher.crowded:
            payload = b"%020d" % time.time_ns() + b"x" * 300
            publisher.publish(next(subjects), payload, lambda _: None)
            sent += 1
        await asyncio.sleep(0.005)
    return sent


def _subjects(case: Case) -> Iterator[str]:
    return itertools.cycle([f"s{number % case.streams}.{number}" for number in range(case.consumers)])


def _used(pids: list[int]) -> float:
    return sum(map(cpu_seconds, pids))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    case = msgspec.convert(given.pop("case"), Case)
    print(json.dumps(uvloop.run(load(**given, case=case))))
