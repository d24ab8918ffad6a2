"""The load of a run under faults, and its memory: what was about to be sent (written down before), and what was answered.

Events go out at a steady rate over many connections, alone or in small batches, and in bursts, so that a kill finds much under
way. What gets no answer, or 503, is sent again with the same event_id; a part of the senders gives up early, so that some answers
stay unknown. A few events are such as must be refused.
"""

import asyncio
import hashlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import httptools
import msgspec

from tests.chaos.checker import Answer, Attempt

SOURCE = "chaos"
TYPES = ("order.created", "order.cancelled", "user.created", "user.deleted", "metric.sample")
ANSWER_SECONDS = 3.0
AGAIN_SECONDS = (0.05, 0.4)
TRIES = 500
BURST_SENDERS = 5
BURST_EVENTS = 80
_OF_RESULT: dict[str, Answer] = {"accepted": "ok", "rejected": "rejected", "unavailable": "unknown"}
_encode = msgspec.json.encode


class Link(asyncio.Protocol):
    """One keep-alive connection with one request under way."""

    def __init__(self, unasked: Callable[[], None]) -> None:
        self._unasked = unasked
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.open = True

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("lost"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body, self._body = b"".join(self._body), []
        status = self._parser.get_status_code()
        self._parser = httptools.HttpResponseParser(self)
        if self._answer is None or self._answer.done():
            self._unasked()
        else:
            self._answer.set_result((status, body))

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        self._answer = asyncio.get_running_loop().create_future()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
        return await self._answer


class Load:
    """``events`` counts what was attempted; ``answers`` has no entry for what was never answered. ``unasked`` counts answers for
    which there was no request."""

    def __init__(self, port: int, rate: float, seed: int, senders: int = 48, batched: float = 0.03) -> None:
        self.attempts: dict[str, Attempt] = {}
        self.answers: dict[str, Answer] = {}
        self.statuses: Counter[str] = Counter()
        self.unasked = 0
        self._port = port
        self._interval = 1 / rate
        self._random = random.Random(seed)
        self._run = f"r{seed}"
        self._senders = senders
        self._batched = batched
        self._next = 0.0
        self._stopping = False
        self._bursts = [asyncio.Event() for _ in range(BURST_SENDERS)]

    @property
    def events(self) -> int:
        return len(self.attempts)

    @property
    def stored(self) -> int:
        return self.statuses["stored"]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        """Send while inside. Leaving waits until every sender has its answer or has given up: heal the system before."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._senders):
                tasks.create_task(self._sender(number))
            for asked in self._bursts:
                tasks.create_task(self._burster(asked))
            try:
                yield self
            finally:
                self._stopping = True
                self.burst()

    def burst(self) -> None:
        """Send some hundred events at once."""
        for asked in self._bursts:
            asked.set()

    async def _burster(self, asked: asyncio.Event) -> None:
        link: Link | None = None
        while not self._stopping:
            await asked.wait()
            asked.clear()
            if not self._stopping:
                link = await self._submit(link, dict(self._event() for _ in range(BURST_EVENTS)), TRIES)
        if link is not None:
            link.transport.abort()

    async def _sender(self, number: int) -> None:
        link: Link | None = None
        while not self._stopping:
            await self._turn()
            count = self._random.randint(2, 8) if self._random.random() < self._batched else 1
            tries = self._random.randint(1, 3) if number % 12 == 0 else TRIES
            link = await self._submit(link, dict(self._event() for _ in range(count)), tries)
        if link is not None:
            link.transport.abort()

    async def _turn(self) -> None:
        """Wait until the next request is due; what is late is not made up for."""
        now = time.monotonic()
        due = self._next = max(now, self._next + self._interval)
        await asyncio.sleep(due - now)

    def _event(self) -> tuple[str, bytes]:
        """A new event, its attempt written down."""
        dice = self._random
        key = f"{self._run}-{len(self.attempts)}"
        data = {"n": len(self.attempts), "amount": dice.randint(0, 1000), "region": dice.choice(("eu", "us")), "text": "x" * 60}
        event = {
            "event_id": key,
            "event_type": dice.choice(TYPES),
            "source": SOURCE,
            "timestamp": 1_700_000_000 + len(self.attempts),
        }
        metadata = {"run": self._run}
        good = dice.random() > 0.01
        delivered = _encode({**event, "data": _encode(data).decode(), "metadata": metadata})
        self.attempts[key] = Attempt(hashlib.blake2b(delivered, digest_size=12).hexdigest(), targets(event["event_type"], data))
        return key, _encode({**event, "data": data, "metadata": metadata, **({} if good else {"source": ""})})

    async def _submit(self, link: Link | None, events: dict[str, bytes], tries: int) -> Link | None:
        """Send until all is answered, or ``tries`` are used up."""
        open_ = dict(events)
        for _ in range(tries):
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    if link is None or not link.open:
                        _, link = await asyncio.get_running_loop().create_connection(self._link, "127.0.0.1", self._port)
                    status, body = await self._post(link, open_)
            except (OSError, TimeoutError) as error:
                self.statuses["timeout" if isinstance(error, TimeoutError) else "refused" if link is None else "lost"] += 1
                if link is not None:
                    link.transport.abort()
                link = None
            else:
                self.statuses[str(status)] += 1
                for key, answer in zip(list(open_), _read(status, body, len(open_)), strict=True):
                    if answer != "unknown":
                        self.answers[key] = answer
                        self.statuses["stored"] += answer == "ok"
                        del open_[key]
                if not open_:
                    break
            await asyncio.sleep(self._random.uniform(*AGAIN_SECONDS))
        for key in open_:
            self.answers[key] = "unknown"
        return link

    def _link(self) -> Link:
        return Link(self._count_unasked)

    def _count_unasked(self) -> None:
        self.unasked += 1

    async def _post(self, link: Link, events: Mapping[str, bytes]) -> tuple[int, bytes]:
        if len(events) == 1:
            return await link.post("/api/v1/events", next(iter(events.values())))
        return await link.post("/api/v1/events/batch", b"[" + b",".join(events.values()) + b"]")


def _read(status: int, body: bytes, count: int) -> list[Answer]:
    """What an answer to so many events says of each."""
    if status == 200 and count > 1:
        results: list[dict[str, Any]] = msgspec.json.decode(body)["results"]
        return [_OF_RESULT[result["status"]] for result in results]
    answer: Answer = "ok" if status == 200 else "rejected" if 400 <= status < 500 and status != 429 else "unknown"
    return [answer] * count


def targets(event_type: Any, data: Mapping[str, Any]) -> frozenset[str]:
    """Whom the rules of ``campaign.documents`` name, in other words than the gateway's."""
    found = set()
    if event_type.startswith("order."):
        found.add("orders")
    if data["amount"] > 500:
        found.add("big")
    if event_type in ("user.created", "user.deleted") and data["region"] == "eu":
        found.add("people")
    return frozenset(found)
