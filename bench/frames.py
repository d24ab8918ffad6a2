"""Load over WebSockets, one process: event frames, each connection with a window of them under way, as fast as acks come.

Prints one JSON object. Frames are masked, as a client's must be, with a key of zeros, so that masking costs this process nothing.
"""

import argparse
import asyncio
import json
import os
import struct
import time
from typing import cast

import uvloop

from bench.generator import EVENT

HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MASKED = 0x80
NO_KEY = bytes(4)


class Client(asyncio.Protocol):
    """One WebSocket."""

    def __init__(self, load: "Load", number: int) -> None:
        self._load = load
        self._prefix = f"{os.getpid()}-{time.time_ns()}-{number}"
        self._buffer = b""
        self._sent = 0
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(HANDSHAKE % (self._load.options.path.encode(), self._load.options.port))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        if not self._open:
            head, ended, buffer = buffer.partition(b"\r\n\r\n")
            if not ended or not head.startswith(b"HTTP/1.1 101"):
                raise RuntimeError(f"no handshake: {head!r}")
            self._open = True
            self._send(self._load.options.window)
        at = count = 0
        while at + 4 <= len(buffer):
            size = buffer[at + 1]
            start = at + 2
            if size == 126:
                size, start = struct.unpack_from(">H", buffer, start)[0], start + 2
            if start + size > len(buffer):
                break
            self._load.refused += not buffer.startswith(b'{"type":"ack"', start)
            at, count = start + size, count + 1
        self._buffer = buffer[at:]
        self._load.acked += count
        if count and time.perf_counter() < self._load.end:
            self._send(count)

    def _send(self, count: int) -> None:
        parts = []
        for _ in range(count):
            self._sent += 1
            name = f"{self._prefix}-{self._sent}"
            event = EVENT % (name, "order.created", 1_700_000_000_000_000_000)
            text = b'{"type":"event","id":%d,"event":%b}' % (self._sent, event.encode())
            parts.append(struct.pack(">BBH", 0x81, MASKED | 126, len(text)) + NO_KEY + text)
        self._transport.write(b"".join(parts))


class Load:
    """What came of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.acked = self.refused = 0
        self.end = 0.0

    async def run(self) -> dict[str, float]:
        options = self.options
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        self.end = began + options.seconds
        for number in range(options.connections):
            await loop.create_connection(lambda number=number: Client(self, number), "127.0.0.1", options.port)  # type: ignore[misc]
        await asyncio.sleep(options.seconds)
        return {"rate": self.acked / (time.perf_counter() - began), "refused": self.refused}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/api/v1/events/ws")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()

    async def run() -> None:
        print(json.dumps(await Load(options).run()))

    uvloop.run(run())


if __name__ == "__main__":
    main()
