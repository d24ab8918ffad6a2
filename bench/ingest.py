"""(a) Ingest: one process on one core, against a bare aiohttp handler that decodes the same body and answers."""

import sys
from statistics import median

from bench import load
from bench.stage import OTHER, SYSTEM, Stage, free_port, get, stage, wait_for, wait_for_port
from bench.table import Row

GUARDED = "order.guarded"
FAR = 1_000_000_000
"""A rate that nobody reaches."""


def measure(seconds: float, rounds: int) -> list[Row]:
    with stage() as here:
        _start(here)
        floor_port = free_port()
        here.start("floor", [sys.executable, "-m", "bench.floors", "handler", str(floor_port)], SYSTEM)
        wait_for_port(floor_port)
        floors, ours, attributed = [], [], []
        for _ in range(rounds):
            floors.append(load.flood(here, floor_port, seconds)["rate"])
            ours.append(load.flood(here, here.http_port, seconds))
            attributed.append(load.flood(here, here.http_port, seconds, form="binary"))
        floor, rate = median(floors), median(result["rate"] for result in ours)
        refused = sum(result["refused"] for result in ours)
        cloudevents, cloudevents_refused = (
            median(result["rate"] for result in attributed), sum(result["refused"] for result in attributed)
        )  # fmt: skip
        here.stop("floor")
        open_rate, guarded_rate, guarded_refused = _guarded(here, seconds, rounds)
        paced = [load.generate(here, here.http_port, rate=10_000, seconds=seconds) for _ in range(rounds)]
        batch = [load.generate(here, here.http_port, batch=100, path="/api/v1/events/batch", seconds=seconds, connections=32)]
        most = here.memory()["ingest"][1]
    p50, p99 = (median(result[key] for result in paced) for key in ("p50_ms", "p99_ms"))
    note = f"{load.NAME}, {refused} refused"
    return [
        Row(what="ingest: single events, 64 connections", value=rate, unit="events/s", floor=floor,
            floor_what="bare aiohttp handler", must=0.62 * floor, note=note),
        Row(what="ingest: CloudEvents in the binary mode", value=cloudevents, unit="events/s", floor=rate,
            floor_what="plain JSON", must=0.85 * rate, note=f"{cloudevents_refused} refused"),
        Row(what="ingest: the same with a key, rate limits and a schema", value=guarded_rate, unit="events/s", floor=open_rate,
            floor_what="without them", must=0.75 * open_rate, note=f"{guarded_refused} refused"),
        Row(what="ingest: at a steady 10,000/s, p50", value=p50, unit="ms", must=2, at_most=True,
            note=f"reached {median(result['rate'] for result in paced):,.0f}/s"),
        Row(what="ingest: at a steady 10,000/s, p99", value=p99, unit="ms", must=10, at_most=True),
        Row(what="ingest: batches of 100", value=median(result["rate"] for result in batch) * 100, unit="events/s", must=80_000),
        Row(what="ingest: memory", value=most, unit="MiB", must=120, at_most=True),
    ]  # fmt: skip


def _guarded(here: Stage, seconds: float, rounds: int) -> tuple[float, float, int]:
    """The rate without and with a key, all rate limits (far away) and a schema, each process in turn; how many were refused."""
    control = f"http://127.0.0.1:{here.control_port}/api/v1"
    schema = {"type": "object", "required": ["user", "amount"], "properties": {"amount": {"type": "number", "minimum": 0}}}
    get(f"{control}/schemas/{GUARDED}", "PUT", {"schema": schema})
    key = get(f"{control}/keys", "POST", {"name": "bench", "scopes": ["events:write"]})["key"]
    names = ("rate_requests", "rate_events", "rate_bytes", "rate_total_requests", "rate_total_events", "rate_address_requests")
    port = free_port()
    here.service("ingest", SYSTEM, "guarded", http_port=port, grpc_port=free_port(), auth="keys", **dict.fromkeys(names, FAR))
    here.ready("guarded")
    bare, guarded, refused = [], [], 0
    for _ in range(rounds):
        bare.append(load.flood(here, here.http_port, seconds)["rate"])
        result = load.flood(here, port, seconds, event_type=GUARDED, key=key)
        guarded.append(result["rate"])
        refused += result["refused"]
    here.stop("guarded")
    return median(bare), median(guarded), refused


def _start(here: Stage) -> None:
    here.broker(OTHER)
    here.service("ingest", SYSTEM)
    here.ready("ingest")
    wait_for(f"http://127.0.0.1:{here.http_port}/ready")
