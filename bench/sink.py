"""A receiver that answers 200 as cheaply as Python can, and knows what it got: ``GET /stats`` (``distinct``: different events of
each path, ``gap``: the longest time without one), ``POST /reset``. What comes to ``/aside/...`` is not counted; ``/aside/fails``
answers 500, ``/aside/hangs`` after half a minute."""

import asyncio
import json
import re
import sys
import time
from typing import cast

import httptools
import uvloop

SENT = re.compile(rb'sent_ns\\?":(\d+)').search
ID = re.compile(rb'"event_id":"([^"]*)"').search
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
FAILURE = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"
HANG_SECONDS = 30.0


class State:
    def __init__(self) -> None:
        self.received = 0
        self.ids: set[bytes] = set()
        self.latencies: list[float] = []
        self.first = self.last = self.gap = 0.0

    def take(self, url: bytes, body: bytes) -> None:
        now = time.perf_counter()
        self.first = self.first or now
        self.gap = max(self.gap, now - (self.last or now))
        self.last = now
        self.received += 1
        sent = SENT(body)
        if sent:
            self.latencies.append(time.time_ns() - int(sent.group(1)))
        event_id = ID(body)
        if event_id:
            self.ids.add(url + event_id.group(1))

    def stats(self) -> dict[str, float]:
        found = sorted(self.latencies) or [0]
        return {
            "received": self.received,
            "distinct": len(self.ids),
            "seconds": self.last - self.first,
            "gap": self.gap,
            "p50_ms": found[len(found) // 2] / 1e6,
            "p99_ms": found[int(len(found) * 0.99)] / 1e6,
        }


class Sink(asyncio.Protocol):
    state = State()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body, self._body = b"".join(self._body), []
        if self._url == b"/stats":
            answer = json.dumps(Sink.state.stats()).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(answer), answer))
            return
        if self._url == b"/reset":
            Sink.state = State()
        elif self._url == b"/aside/fails":
            self._transport.write(FAILURE)
            return
        elif self._url == b"/aside/hangs":
            asyncio.get_running_loop().call_later(HANG_SECONDS, self._transport.write, ANSWER)
            return
        elif not self._url.startswith(b"/aside/"):
            Sink.state.take(self._url, body)
        self._transport.write(ANSWER)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
