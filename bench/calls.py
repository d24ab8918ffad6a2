"""The gRPC load generator, one process: ``IngestStream`` with so many events a message, as fast as acks come or at a steady rate,
or ``IngestEvent`` calls. Prints one JSON object.

Messages are put together from bytes: encoding them costs less than what is measured. At a steady rate latency counts from the
moment a message was due.
"""

import argparse
import asyncio
import json
import os
import time
from typing import Any

import grpc
import uvloop

from bench.generator import DATA
from tas_mcp.v1 import mcp_pb2

ID_CHARACTERS = 24
METHODS = {
    "stream": "/mcp.v1.MCPService/IngestStream",
    "unary": "/mcp.v1.MCPService/IngestEvent",
}


class Messages:
    """Encoded events, each with an id of its own."""

    def __init__(self) -> None:
        event = mcp_pb2.Event(
            event_type="order.created",
            source="bench",
            timestamp=1_700_000_000,
            data=DATA % 1_700_000_000_000_000_000,
            metadata={"correlation_id": "req-789"},
        )
        self._rest = event.SerializeToString()
        self._prefix = f"{os.getpid():08d}-".encode()
        self._number = time.time_ns() % 1_000_000_000 * 1000
        framed = mcp_pb2.EventBatch(events=[mcp_pb2.Event.FromString(self.event())]).SerializeToString()
        self._frame = framed[: -len(self.event())]

    def event(self) -> bytes:
        self._number += 1
        return b"\x0a%c%s%015d%s" % (ID_CHARACTERS, self._prefix, self._number, self._rest)

    def batch(self, sequence: int, count: int) -> bytes:
        head = mcp_pb2.EventBatch(sequence=sequence).SerializeToString()
        return head + b"".join(self._frame + self.event() for _ in range(count))


class Load:
    """What is sent over one stream, and what came of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.messages = Messages()
        self.due: dict[int, float] = {}
        self.latencies: list[float] = []
        self.refused = 0

    async def stream(self, channel: grpc.aio.Channel) -> None:
        """Keep a window of messages under way, or send them when they are due."""
        options = self.options
        call: Any = channel.stream_stream(METHODS["stream"])()
        window = asyncio.Semaphore(options.window)
        began = time.perf_counter()
        end = began + options.seconds

        async def send() -> None:
            sequence = 0
            while (now := time.perf_counter()) < end:
                await window.acquire()
                due = began + sequence / options.rate if options.rate else now
                if due > now:
                    await asyncio.sleep(due - now)
                sequence += 1
                self.due[sequence] = due
                await call.write(self.messages.batch(sequence, options.events))
            await call.done_writing()

        sending = asyncio.create_task(send())
        while (body := await call.read()) is not grpc.aio.EOF:
            ack = mcp_pb2.IngestAck.FromString(body)
            self.latencies.append(time.perf_counter() - self.due.pop(ack.sequence))
            self.refused += sum(each.status != "accepted" for each in ack.results)
            window.release()
        await sending

    async def unary(self, channel: grpc.aio.Channel) -> None:
        """One call after another, in as many tasks as the window has."""
        call: Any = channel.unary_unary(METHODS["unary"])
        end = time.perf_counter() + self.options.seconds

        async def loop() -> None:
            while (began := time.perf_counter()) < end:
                answer = mcp_pb2.IngestEventResponse.FromString(await call(self.messages.event()))
                self.latencies.append(time.perf_counter() - began)
                self.refused += not answer.success

        await asyncio.gather(*(loop() for _ in range(self.options.window)))

    async def run(self) -> dict[str, float]:
        options = self.options
        began = time.perf_counter()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{options.port}") as channel:
            await (self.unary(channel) if options.mode == "unary" else self.stream(channel))
        elapsed = time.perf_counter() - began
        found = sorted(self.latencies)
        return {
            "events": len(found) * options.events,
            "rate": len(found) * options.events / elapsed,
            "refused": self.refused,
            "p50_ms": found[len(found) // 2] * 1e3,
            "p99_ms": found[int(len(found) * 0.99)] * 1e3,
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mode", choices=METHODS, default="stream")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--events", type=int, default=1)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--rate", type=float, default=0.0)
    options = parser.parse_args()
    print(json.dumps(uvloop.run(Load(options).run())))


if __name__ == "__main__":
    main()
