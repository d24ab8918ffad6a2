"""Clients that mean harm, against the service in a process of its own: others are served all the while, its memory stays flat.

What single requests are answered stands in ``test_sockets.py`` and ``test_http.py``.
"""

import asyncio
import os
import resource
import socket
import struct
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from tests.nats_server import NatsServer
from tests.ports import free_port
from tests.services.ingest.rig import BATCH, EVENTS, GOOD, Rig, connected, head, request, serving
from tests.shared.rig import linked, until

ROOT = Path(__file__).parents[3]
JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"
IDLE_CLIENTS = 5000
PATIENCE_SECONDS = 60.0
"""The machine may be slow, and is under attack."""
MIB = 1024 * 1024


class Service(NamedTuple):
    """A running ``python -m services.ingest``."""

    port: int
    ops_port: int
    pid: int
    session: aiohttp.ClientSession

    def memory(self) -> int:
        """Its resident set, bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def post(self) -> int:
        """The status of a plain event."""
        async with self.session.post(EVENTS, data=GOOD, headers={"Content-Type": "application/json"}) as answer:
            return answer.status

    async def connections(self) -> int:
        async with self.session.get(f"http://127.0.0.1:{self.ops_port}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return next(int(float(line.split()[1])) for line in lines if line.startswith("mcp_http_connections "))


@asynccontextmanager
async def running(url: str, **settings: str) -> AsyncIterator[Service]:
    """Start it as most systems would: with a soft limit of 1024 open files."""
    port, ops_port = free_port(), free_port()
    bare = {key: value for key, value in os.environ.items() if not key.startswith("TAS_")}
    ports = {"TAS_HTTP_PORT": str(port), "TAS_OPS_PORT": str(ops_port), "TAS_GRPC_PORT": "0"}
    values = {"TAS_NATS_URL": url, "TAS_AUTH": "none", **ports, **settings}
    path = f"{ROOT}{os.pathsep}{ROOT / 'shared'}"
    command = ("sh", "-c", 'ulimit -S -n 1024; exec "$@"', "sh", sys.executable, "-m", "services.ingest")
    process = await asyncio.create_subprocess_exec(*command, env={**bare, **values, "PYTHONPATH": path}, cwd=ROOT)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=aiohttp.ClientTimeout(PATIENCE_SECONDS)) as session:
            service = Service(port, ops_port, process.pid, session)

            async def serves() -> bool:
                try:
                    return await service.post() == 200
                except aiohttp.ClientConnectionError:
                    return False

            await until(serves)
            yield service
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def service(nats: NatsServer) -> AsyncIterator[Service]:
    """Its clients have a second for a body."""
    async with linked(nats.url) as broker:
        await broker.lay_out()
    async with running(nats.url, TAS_BODY_SECONDS="1", TAS_LOG_LEVEL="error") as found:
        yield found


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < IDLE_CLIENTS + 1000, reason="too few open files are allowed here"
)
async def test_idle_connections(service: Service) -> None:
    before = service.memory()
    command = (sys.executable, "-m", "tests.services.ingest.idle", str(service.port), str(IDLE_CLIENTS))
    clients = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, cwd=ROOT)
    assert clients.stdin is not None
    assert clients.stdout is not None
    try:
        assert int(await clients.stdout.readline()) == IDLE_CLIENTS
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await service.connections() < IDLE_CLIENTS:
                await asyncio.sleep(0.1)
        assert [await service.post() for _ in range(20)] == [200] * 20
        grown = service.memory() - before
        assert grown < IDLE_CLIENTS * 20_000, f"{grown / IDLE_CLIENTS:.0f} bytes for each"
        clients.stdin.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await service.connections() > 100:
                await asyncio.sleep(0.1)
    finally:
        if clients.returncode is None:
            clients.kill()
        await clients.wait()
    assert await service.post() == 200


# Attacks: each connects, does harm, and ends when it is refused (or has had enough).


async def pour(port: int, *parts: bytes, answers: int = 1) -> None:
    """Send, without reading, until all is sent or the server cuts the connection; then read the answers: all refusals."""
    async with connected(port) as socket:
        try:
            for part in parts:
                socket.send(part)
                await socket._writer.drain()
        except ConnectionError:
            return
        for _ in range(answers):
            found = await socket.reply(PATIENCE_SECONDS)
            assert found is None or 400 <= found.status < 500


async def vanish(port: int) -> None:
    """Be gone in the middle of a body, without a goodbye (the connection is reset)."""
    async with connected(port) as client:
        client.send(head(JSON, "Content-Length: 1000") + b"{")
        await client._writer.drain()
        linger = struct.pack("ii", 1, 0)
        client._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client._writer.transport.abort()


DEEP = b'{"event_type":"a","source":"b","data":' + b"[" * 100_000
WIDE = b'{"event_type":"a","source":"b","data":{%s}}' % b",".join(b'"%d":0' % each for each in range(150_000))
LONG = b'{"event_type":"a","source":"b","data":%s}' % (b"9" * 1_000_000)
CLOSE = "Connection: close"
NOTHING = head(method="GET", path="/nothing")

ATTACKS = {
    "a body that stops": lambda port: pour(port, head(JSON, "Content-Length: 100000") + b"{"),
    "chunks that stop": lambda port: pour(port, head(JSON, CHUNKED) + b"fffff\r\n{"),
    "an endless body": lambda port: pour(port, head(JSON, "Content-Length: 99999999"), *[b" " * MIB] * 20),
    "endless chunks": lambda port: pour(port, head(JSON, CHUNKED), *[b"100000\r\n%s\r\n" % (b" " * MIB)] * 20),
    "chunks of one byte": lambda port: pour(port, head(JSON, CHUNKED), *[b"1\r\n \r\n" * 1000] * 100),
    "a flood of headers": lambda port: pour(port, head(JSON)[:-2], *[b"X-Y: z\r\n" * 1000] * 100),
    "an endless header": lambda port: pour(port, head(JSON)[:-2] + b"X: ", *[b"y" * 10_000] * 100),
    "an endless line": lambda port: pour(port, b"GET /", *[b"y" * 10_000] * 100),
    "a thousand requests at once": lambda port: pour(port, *[request(b"{}") * 100] * 10, answers=1000),
    "a thousand odd requests at once": lambda port: pour(port, *[NOTHING * 100] * 10, answers=1000),
    "deep": lambda port: pour(port, request(DEEP, CLOSE)),
    "deep, in a batch": lambda port: pour(port, request(b"[" + DEEP, CLOSE, path=BATCH)),
    "too wide for an event": lambda port: pour(port, request(WIDE, CLOSE)),
    "a long number": lambda port: pour(port, request(LONG, CLOSE)),
    "bad UTF-8": lambda port: pour(port, request(b'{"event_type":"a","source":"b","data":"' + b"\xff" * MIB + b'"}', CLOSE)),
    "a batch of three million": lambda port: pour(port, request(b"[" + b"{}," * 3_000_000 + b"0]", CLOSE, path=BATCH)),
    "gone": vanish,
}  # fmt: skip


async def test_attacks(service: Service) -> None:
    attacking = True
    found: list[int] = []

    async def somebody_else() -> None:
        while attacking:
            found.append(await service.post())

    async def attack() -> None:
        await asyncio.gather(*(each(service.port) for each in ATTACKS.values() for _ in range(2)))

    other = asyncio.create_task(somebody_else())
    await attack()
    await attack()  # what the allocator keeps it has by now
    before = service.memory()
    for _ in range(3):
        await attack()
    attacking = False
    await other
    assert set(found) == {200}
    after = service.memory()  # more than a gigabyte was sent; bodies that were there at once make the allocator keep some
    assert after < 350 * MIB
    assert after - before < 100 * MIB
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await service.connections() > 10:
            await asyncio.sleep(0.1)


# What is large or odd and yet an event, or nearly: answered, on both lanes.


@pytest.fixture
async def both(nats: NatsServer, express: bool) -> AsyncIterator[Rig]:
    async with serving(nats.url, express=express, express_bytes=2 * MIB) as found:
        yield found


def event(data: bytes, more: bytes = b"") -> bytes:
    return b'{"event_type":"a","source":"b","data":%s%s}' % (data, more)


ODD = {
    "wide": (event(b"{%s}" % b",".join(b'"%d":0' % each for each in range(50_000))), 200),
    "one name, often": (event(b"{%s}" % b",".join(b'"a":0' for _ in range(50_000))), 200),
    "a long list": (event(b"[%s]" % b",".join([b"0"] * 300_000)), 200),
    "as deep as may be": (event(b"[" * 32 + b"]" * 32), 200),
    "one deeper": (event(b"[" * 33 + b"]" * 33), 400),
    "deep in a wide one": (event(b"[%s%s]" % (b"0," * 50_000, b"[" * 40 + b"]" * 40)), 400),
    "deep in a string": (event(b'"%s%s"' % (b"[" * 40, b"]" * 40)), 400),
    "deep and never ended": (event(b'{"a":' * 50_000), 400),
    "a long name": (event(b'{"%s":0}' % (b"x" * 500_000)), 200),
    "a number of a hundred thousand digits": (event(b"9" * 100_000), 400),
    "a fraction of a hundred thousand digits": (event(b"0." + b"9" * 100_000), 200),
    "an exponent beyond all": (event(b"1e99999"), 400),
    "half a surrogate": (event(b'"\\ud800"'), 400),
    "a name that is half a surrogate": (event(b'{"\\udfff":1}'), 400),
    "an overlong slash": (event(b'"\xc0\xaf"'), 400),
    "a surrogate in UTF-8": (event(b'"\xed\xa0\x80"'), 400),
    "a zero": (event(b"0", b',"metadata":{"a":"b\\u0000c"}'), 400),
    "a line break in the type": (b'{"event_type":"a\\r\\nX: y","source":"b"}', 400),
    "a wildcard as the type": (b'{"event_type":"a.>","source":"b"}', 200),
    "dots as the type": (b'{"event_type":"..","source":"b"}', 200),
    "a bomb of entries": (event(b"0", b',"metadata":{%s}' % b",".join(b'"%d":""' % each for each in range(65))), 400),
}


async def test_odd_events(both: Rig) -> None:
    found = {what: (await both.post(body)).status for what, (body, _) in ODD.items()}
    assert found == {what: status for what, (_, status) in ODD.items()}
    assert len(await both.stored()) == sum(status == 200 for _, status in ODD.values())
