"""What traces cost: ingest with one event of a hundred traced, beside none; and what an event that is not sampled costs each
tier, in one process. It is the processor's time for an event that is judged, the sending of spans included: the rate is its
inverse where nothing else runs, and says nothing of a few percent where something does."""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import cast

from msgspec import Raw

from bench import load
from bench.stage import OTHER, SYSTEM, free_port, stage, wait_for_port
from bench.table import Row
from services.forward.traces import Traces
from services.ingest.traces import Trace
from tas_mcp.broker.wire import Message
from tas_mcp.messages import TRACEPARENT, Event
from tas_mcp.service import freeze
from tas_mcp.targets import AnyTarget
from tas_mcp.tracing import open_tracer

ROUNDS = 5
"""At least: a difference of a few percent is looked for."""
CALLS, TRIES = 100_000, 5
SAMPLED = 10_000
UNSAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


def measure(seconds: float, rounds: int) -> list[Row]:
    with stage() as here:
        here.broker(OTHER)
        here.service("ingest", SYSTEM)
        collector = free_port()
        here.start("collector", [sys.executable, "-m", "bench.floors", "collector", str(collector)], OTHER)
        wait_for_port(collector)
        url = f"http://127.0.0.1:{collector}"
        port = free_port()
        here.service("ingest", SYSTEM, "traced", _sampling(url, "0.01"), http_port=port, grpc_port=free_port())
        here.ready("traced")
        here.ready("ingest")
        ports = {"ingest": here.http_port, "traced": port}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ports}
        for _ in range(max(rounds, ROUNDS)):
            for name in ports:
                used = here.cpu_seconds(name)
                rate = load.flood(here, ports[name], seconds)["rate"]
                found[name].append(((here.cpu_seconds(name) - used) / (rate * seconds) * 1e6, rate))
        sampled = asyncio.run(_sampled(url))
    (floor, bare_rate), (cost, rate) = (map(median, zip(*found[name], strict=True)) for name in ports)
    return [
        Row(what="ingest: an event, with one of a hundred traced", value=cost, unit="us CPU", floor=floor, floor_what="no traces",
            must=floor / 0.95, at_most=True, note=f"{rate:,.0f}/s, without {bare_rate:,.0f}/s"),
        Row(what="traces: a sampled event, at ingest, with its sending", value=sampled, unit="us CPU"),
        *(Row(what=f"traces: {what}", value=cost, unit="us", must=2, at_most=True) for what, cost in _unsampled().items()),
    ]  # fmt: skip


def _sampling(endpoint: str, ratio: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": ratio,
    }


async def _sampled(url: str) -> float:
    """Microseconds of the spans of an event at ingest."""
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
    event = _event()
    began = time.process_time()
    async with open_tracer("bench", os.environ).running() as tracer:
        freeze()
        for number in range(SAMPLED):
            trace = Trace(tracer, "http", "")
            trace.send(event, 200)
            trace.end()
            if number % 100 == 0:
                await asyncio.sleep(0.02)
    return (time.process_time() - began) / SAMPLED * 1e6


def _event() -> Event:
    return Event(event_id="e", event_type="a", source="s", timestamp=1, accepted_at=1, data=Raw(b"1"))


def _unsampled() -> dict[str, float]:
    """Microseconds of what each tier does for an event that is not sampled, where traces are on."""
    tracer = open_tracer("bench", _sampling("http://127.0.0.1:1", "0"))
    traces = Traces(tracer, errors=True)
    message = Message("tas.events.a", "", b"", b"NATS/1.0\r\nNats-Msg-Id: 0123456789abcdef\r\n\r\n")
    event = _event()
    target = cast(AnyTarget, None)  # it is not looked at
    return {
        "not sampled, at ingest": _microseconds(lambda: tracer.samples("")),
        "not sampled by its client, at ingest": _microseconds(lambda: tracer.samples(UNSAMPLED)),
        "not sampled, at process": _microseconds(lambda: tracer.on and message.header(TRACEPARENT)),
        "not sampled, at forward": _microseconds(lambda: traces.begin(target, event, 1, message.header(TRACEPARENT))),
    }


def _microseconds(work: Callable[[], object]) -> float:
    """The least of a few tries, of the processor's time."""

    def once() -> float:
        began = time.process_time()
        for _ in range(CALLS):
            work()
        return (time.process_time() - began) / CALLS * 1e6

    return min(once() for _ in range(TRIES))
