"""gRPC ingest: one process on one core, against a bare grpc.aio server that decodes the same messages and answers."""

import sys
from statistics import median
from typing import Any

from bench.stage import OTHER, SYSTEM, Stage, free_port, stage, wait_for, wait_for_port
from bench.table import Row

BATCH = {"events": 100, "window": 16}
SINGLE = {"events": 1, "window": 256}
UNARY = {"mode": "unary", "window": 64}
PACED = {"events": 1, "rate": 4000, "window": 4000}


def measure(seconds: float, rounds: int) -> list[Row]:
    with stage() as here:
        here.broker(OTHER)
        here.service("ingest", SYSTEM)
        here.ready("ingest")
        wait_for(f"http://127.0.0.1:{here.http_port}/ready")
        floor_port = free_port()
        here.start("floor", [sys.executable, "-m", "bench.grpc_floors", str(floor_port)], SYSTEM)
        wait_for_port(floor_port)
        pairs: dict[str, list[tuple[Any, Any]]] = {"batch": [], "single": [], "unary": []}
        for _ in range(rounds):
            for name, options in (("batch", BATCH), ("single", SINGLE), ("unary", UNARY)):
                floor = _load(here, "floor", floor_port, seconds, **options)
                pairs[name].append((floor, _load(here, "ingest", here.grpc_port, seconds, **options)))
        here.stop("floor")
        paced = [_load(here, "ingest", here.grpc_port, seconds, **PACED) for _ in range(rounds)]
    p99 = median(result["p99_ms"] for result in paced)
    return [
        _row("gRPC: IngestStream, 100 events a message", pairs["batch"], must=100_000),
        _row("gRPC: IngestStream, one event a message", pairs["single"], must=10_000),
        _row("gRPC: IngestEvent", pairs["unary"], of_floor=0.75),
        Row(what="gRPC: IngestStream at 4,000/s, one a message, p99", value=p99, unit="ms", must=10, at_most=True,
            note=f"reached {median(result['rate'] for result in paced):,.0f}/s"),
    ]  # fmt: skip


def _load(here: Stage, server: str, port: int, seconds: float, **options: Any) -> Any:
    """What came of it, and the server's CPU time for each event (``cpu_us``)."""
    before = here.cpu_seconds(server)
    command = [sys.executable, "-m", "bench.calls", "--port", str(port), "--seconds", str(seconds)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    result = here.run(command, OTHER)
    return {**result, "cpu_us": (here.cpu_seconds(server) - before) / result["events"] * 1e6}


def _row(what: str, pairs: list[tuple[Any, Any]], must: float = 0.0, of_floor: float = 0.0) -> Row:
    """The rates, and in the note what the servers themselves used: the broker shares the core of the load, the floor has none."""
    floor = median(floor["rate"] for floor, _ in pairs)
    refused = sum(ours["refused"] for _, ours in pairs)
    bare_us, our_us = median(floor["cpu_us"] for floor, _ in pairs), median(ours["cpu_us"] for _, ours in pairs)
    return Row(
        what=what,
        value=median(ours["rate"] for _, ours in pairs),
        unit="events/s",
        floor=floor,
        floor_what="bare grpc.aio server",
        must=must or of_floor * floor,
        note=f"CPU an event {our_us:.1f} us, bare {bare_us:.1f} us; {refused} refused",
    )
