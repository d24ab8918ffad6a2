"""Deliveries to servers that people run: connections are kept, and one that the server closes while it is idle loses nothing."""

import asyncio
import json
import random
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from services.forward.connection import Connection, Endpoint, Pool
from services.forward.targets.http import Http
from tas_mcp.messages import Event
from tas_mcp.targets import HttpConfig, HttpTarget
from tests.services.forward.rig import OPEN
from tests.services.forward.servers.real import IDLE_SECONDS, SERVERS, Missing

TELLING = ("node", "go")
"""Those that count what they get."""


class Counting(Pool):
    """Counts its connections."""

    opened = 0

    async def _connect(self) -> Connection:
        self.opened += 1
        return await super()._connect()


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    name = request.param
    folder: Path = tmp_path_factory.mktemp(name)
    try:
        with SERVERS[name](folder) as port:  # type: ignore[attr-defined]
            yield name, port
    except Missing:
        pytest.skip(f"{name} is not installed")


@asynccontextmanager
async def delivering(port: int) -> AsyncIterator[tuple[Http, Counting]]:
    target = HttpTarget(id="t", endpoint=f"http://127.0.0.1:{port}/hook", config=HttpConfig(format="data"))
    async with Counting(Endpoint("127.0.0.1", port, None), 5.0, OPEN).running() as pool:
        assert isinstance(pool, Counting)
        yield Http(target, pool), pool


def event(number: int, size: int = 0) -> Event:
    data = Raw(b'"%d %s"' % (number, b"x" * size))
    return Event(event_id=f"e{number}", event_type="a.b", source="s", timestamp=1, accepted_at=1, data=data)


async def stats(port: int) -> Any:
    def ask() -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=30) as answer:
            return json.load(answer)

    return await asyncio.to_thread(ask)


async def test_many_at_a_time_over_few_connections(server: tuple[str, int]) -> None:
    name, port = server
    before = await stats(port) if name in TELLING else {}
    async with delivering(port) as (sender, pool):
        numbers = iter(range(1000, 1200))

        async def work() -> None:
            for number in numbers:
                assert await sender.send(event(number, number * 7)) == 200

        async with asyncio.timeout(60):
            await asyncio.gather(*(work() for _ in range(8)))
        assert pool.opened <= 8
    if name in TELLING:
        after = await stats(port)
        assert after["distinct"] - before["distinct"] == 200
        assert after["requests"] - before["requests"] == 200


async def test_connections_closed_while_idle_lose_nothing(server: tuple[str, int]) -> None:
    """Deliveries come about as far apart as the server waits, so that some meet it closing."""
    name, port = server
    before = await stats(port) if name in TELLING else {}
    jitter = random.Random(7)
    async with delivering(port) as (sender, pool):
        for number in range(40):
            assert await sender.send(event(number)) == 200
            await asyncio.sleep(IDLE_SECONDS * jitter.choice((0.1, 0.9, 0.98, 1.0, 1.02, 1.1)))
        assert pool.opened < 45
    if name in TELLING:
        after = await stats(port)
        assert after["distinct"] - before["distinct"] == 40
        assert pool.opened > 1
