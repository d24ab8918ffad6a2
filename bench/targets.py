"""(e) Target types: events/s of one sender on one core, in batches, against the bare library with what was encoded beforehand.

``python -m bench.targets server PORT`` is a gRPC server that takes everything; ``send|floor grpc|kafka ADDRESS SECONDS``
measures. Kafka is measured where TAS_TEST_KAFKA names a broker (``python -m tests.kafka_broker`` runs one).
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import grpc
import uvloop
from aiokafka import AIOKafkaProducer
from msgspec import Raw

from bench.stage import OTHER, SYSTEM, free_port, stage, wait_for_port
from bench.table import Row
from services.forward.addresses import networks
from services.forward.formats import tas
from services.forward.guard import Guard
from services.forward.targets import BatchSender, open_sender
from tas_mcp import targets
from tas_mcp.messages import Event
from tas_mcp.v1 import mcp_pb2, mcp_pb2_grpc

BATCH = 100
IN_FLIGHT = 8
TOPIC = "tas-bench"
MUST = {"grpc": 30_000, "kafka": 20_000}
EVENTS = [
    Event(
        event_id=f"evt-{number}",
        event_type="user.created",
        source="bench",
        timestamp=1703001234,
        accepted_at=1,
        data=Raw(b'{"user":{"id":"usr-456","name":"Ada Lovelace"},"amount":123.45,"items":[{"sku":"x-1","n":2}]}'),
    )
    for number in range(BATCH)
]


def measure(seconds: float, rounds: int) -> list[Row]:
    rows = []
    with stage() as here:
        port = free_port()
        here.start("grpc", [sys.executable, "-m", "bench.targets", "server", str(port)], OTHER)
        wait_for_port(port)
        addresses = {"grpc": f"127.0.0.1:{port}", "kafka": os.environ.get("TAS_TEST_KAFKA", "")}
        for kind, address in addresses.items():
            if not address:
                print(f"   {kind}: not measured, TAS_TEST_KAFKA names no broker")
                continue
            found: dict[str, list[float]] = {"floor": [], "send": []}
            for _ in range(rounds):
                for mode, rates in found.items():
                    command = [sys.executable, "-m", "bench.targets", mode, kind, address, str(seconds)]
                    rates.append(here.run(command, SYSTEM)["rate"])
            rows.append(
                Row(what=f"{kind}: events in batches of {BATCH}", value=median(found["send"]), unit="/s",
                    floor=median(found["floor"]), floor_what="bare library", must=MUST[kind])
            )  # fmt: skip
    return rows


class Server(mcp_pb2_grpc.MCPServiceServicer):
    """Takes everything."""

    async def IngestBatch(self, request: mcp_pb2.EventBatch, context: Any) -> mcp_pb2.IngestAck:  # noqa: N802
        return mcp_pb2.IngestAck(results=[mcp_pb2.EventResult(status="accepted")] * len(request.events))


async def serve(port: int) -> None:
    server = grpc.aio.server()
    mcp_pb2_grpc.add_MCPServiceServicer_to_server(Server(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def send(kind: str, address: str, seconds: float) -> float:
    """What forward does with batches."""
    config = {"topic": TOPIC} if kind == "kafka" else {}
    target, _ = targets.check({"id": "bench", "type": kind, "endpoint": f"{kind}://{address}", "config": config})
    async with open_sender(target, Guard(networks("0.0.0.0/0"))) as sender:
        assert isinstance(sender, BatchSender)
        batches = sender

        async def batch() -> None:
            assert await batches.send_batch(EVENTS) == [200] * BATCH

        return await rate(batch, seconds)


async def floor(kind: str, address: str, seconds: float) -> float:
    """What the library does with what is ready to be sent."""
    if kind == "grpc":
        same = mcp_pb2.EventBatch(
            events=[mcp_pb2.Event(event_id=each.event_id, data=bytes(each.data).decode()) for each in EVENTS]
        )
        async with grpc.aio.insecure_channel(address) as channel:
            stub = mcp_pb2_grpc.MCPServiceStub(channel)
            return await rate(lambda: stub.IngestBatch(same), seconds)
    records = [(each.event_id.encode(), tas(each)) for each in EVENTS]
    producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", max_batch_size=262_144)
    await producer.start()

    async def produce() -> None:
        await asyncio.gather(*[await producer.send(TOPIC, value, key) for key, value in records])

    try:
        return await rate(produce, seconds)
    finally:
        await producer.stop()


async def rate(batch: Callable[[], Awaitable[Any]], seconds: float) -> float:
    """Events a second over ``IN_FLIGHT`` batches at a time, after one to warm up."""
    await batch()
    done = 0
    began = time.perf_counter()

    async def loop() -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            await batch()
            done += BATCH

    await asyncio.gather(*(loop() for _ in range(IN_FLIGHT)))
    return done / (time.perf_counter() - began)


if __name__ == "__main__":
    mode, *rest = sys.argv[1:]
    if mode == "server":
        uvloop.run(serve(int(rest[0])))
    else:
        found = uvloop.run({"send": send, "floor": floor}[mode](rest[0], rest[1], float(rest[2])))
        print(json.dumps({"rate": found}))
