"""The bundled load generator, one process: POSTs events over keep-alive connections, as fast as answers come or at a steady rate.

Prints one JSON object. At a steady rate latency counts from the moment a request was due, not from when it was sent, so that a
stall is not hidden (no coordinated omission).
"""

import argparse
import asyncio
import json
import os
import time
from collections import deque
from typing import cast

import httptools
import uvloop

DATA = (
    '{"sent_ns":%d,"user":{"id":"usr-456","name":"Ada Lovelace"},"amount":123.45,"currency":"EUR",'
    '"items":[{"sku":"x-1","n":2},{"sku":"x-2","n":1}]}'
)
EVENT = (
    '{"event_id":"%s","event_type":"%s","source":"bench","timestamp":1700000000,"data":'
    + DATA
    + ',"metadata":{"correlation_id":"req-789"}}'
)
ATTRIBUTES = (
    b"ce-specversion: 1.0\r\nce-id: %s\r\nce-source: bench\r\nce-type: %s\r\nce-time: 2023-11-14T22:13:20Z\r\n"
    b"ce-correlationid: req-789\r\n"
)
"""The same event as a CloudEvent in the binary mode."""


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self._parser = httptools.HttpResponseParser(self)
        self._load.answered(self, status)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost += 1


class Load:
    """What is sent, and what came of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.idle: deque[Connection] = deque()
        self.backlog: deque[float] = deque()
        self.latencies: list[float] = []
        self.sent = self.refused = self.lost = 0
        self.done = asyncio.Event()
        self.end = 0.0
        self._key = f"Authorization: Bearer {options.key}\r\n".encode() if options.key else b""
        self._prefix = f"{os.getpid()}-{time.time_ns()}"

    def body(self) -> bytes:
        if self.options.form == "binary":
            return (DATA % time.time_ns()).encode()
        options = self.options
        entries = []
        for index in range(options.batch or 1):
            event_id = f"{self._prefix}-{self.sent}-{index}"
            entries.append(EVENT % (event_id, options.event_type, time.time_ns()))
        return (f"[{','.join(entries)}]" if options.batch else entries[0]).encode()

    def send(self, connection: Connection, due: float) -> None:
        body = self.body()
        own = self._key
        if self.options.form == "binary":
            own += ATTRIBUTES % (f"{self._prefix}-{self.sent}".encode(), self.options.event_type.encode())
        self.sent += 1
        connection.due = due
        connection.transport.write(
            b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s"
            % (self.options.path.encode(), own, len(body), body)
        )

    def answered(self, connection: Connection, status: int) -> None:
        now = time.perf_counter()
        self.latencies.append(now - connection.due)
        self.refused += status != 200
        finished = len(self.latencies) == self.options.count or now >= self.end
        if self.backlog:
            self.send(connection, self.backlog.popleft())
        elif self.options.rate or finished or (self.options.count and self.sent >= self.options.count):
            self.idle.append(connection)
            if finished and len(self.idle) == self.options.connections:
                self.done.set()
        else:
            self.send(connection, now)

    async def pace(self) -> None:
        """Let requests fall due at the rate."""
        began, due = time.perf_counter(), 0
        while time.perf_counter() < self.end:
            while due < (time.perf_counter() - began) * self.options.rate:
                moment = began + due / self.options.rate
                due += 1
                if self.idle:
                    self.send(self.idle.popleft(), moment)
                else:
                    self.backlog.append(moment)
            await asyncio.sleep(0.001)
        self.done.set()

    async def run(self) -> dict[str, float]:
        options = self.options
        loop = asyncio.get_running_loop()
        for _ in range(options.connections):
            _, connection = await loop.create_connection(lambda: Connection(self), options.host, options.port)
            self.idle.append(connection)
        began = time.perf_counter()
        self.end = began + options.seconds
        if options.rate:
            await self.pace()
        else:
            connections, self.idle = list(self.idle), deque()
            for connection in connections:
                self.send(connection, time.perf_counter())
            await asyncio.wait_for(self.done.wait(), options.seconds + 30)
        elapsed = time.perf_counter() - began
        found = sorted(self.latencies)
        return {
            "requests": len(found),
            "refused": self.refused,
            "lost": self.lost,
            "seconds": elapsed,
            "rate": len(found) / elapsed,
            "p50_ms": found[len(found) // 2] * 1e3,
            "p99_ms": found[int(len(found) * 0.99)] * 1e3,
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/api/v1/events")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--form", choices=("json", "binary"), default="json")
    parser.add_argument("--key", default="")
    parser.add_argument("--event-type", default="order.created")
    options = parser.parse_args()

    async def run() -> None:
        print(json.dumps(await Load(options).run()))

    uvloop.run(run())


if __name__ == "__main__":
    main()
