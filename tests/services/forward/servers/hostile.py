"""A server that plays tricks: each connection follows a script, which reads and writes as it likes."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

PATIENCE = 60.0
ENDLESS_BYTES = 64 * 1024 * 1024
"""What an endless answer is cut at: nobody should have read that much."""


class Peer:
    """The server's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._left = asyncio.Event()
        self.requests: list[bytes] = []

    async def head(self) -> bytes:
        """Read a request's head."""
        return await self._reader.readuntil(b"\r\n\r\n")

    async def request(self) -> bytes:
        """Read a whole request; returns its body."""
        head = await self.head()
        _, _, rest = head.lower().partition(b"content-length: ")
        body = await self._reader.readexactly(int(rest.partition(b"\r\n")[0]))
        self.requests.append(body)
        return body

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def flood(self, data: bytes) -> int:
        """Send ``data`` again and again until the client has had enough; how many bytes it took."""
        sent = 0
        try:
            while sent < ENDLESS_BYTES:
                await self.send(data)
                sent += len(data)
        except OSError:
            return sent
        raise AssertionError("the client read without end")

    def end(self) -> None:
        """Send no more, but read on."""
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """Close by RST."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    @property
    def left(self) -> bool:
        return self._left.is_set()

    async def gone(self) -> bool:
        """Wait until the client has closed the connection; not for scripts."""
        await self._left.wait()
        return True

    async def follow(self, script: "Script") -> None:
        """Do as the script says, then wait for the client to leave."""
        try:
            async with asyncio.timeout(PATIENCE):
                await script(self)
                while await self._reader.read(65_536):
                    pass
        except (OSError, asyncio.IncompleteReadError):  # the client left, or we did
            pass
        finally:
            self._left.set()
            self._writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class Hostile:
    """A listening server. The n-th connection follows the n-th script, or the last where there are no more."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self.peers: list[Peer] = []
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        return len(self.peers)

    @property
    def requests(self) -> int:
        """How many whole requests came, over all connections."""
        return sum(len(peer.requests) for peer in self.peers)

    @asynccontextmanager
    async def listening(
        self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> AsyncIterator["Hostile"]:
        server = await asyncio.start_server(self._serve, host, port, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.peers.append(peer)
        task = asyncio.create_task(peer.follow(script))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


# Scripts.


def answering(*pieces: bytes, then: Callable[[Peer], None] | None = None) -> Script:
    """Answer each request with ``pieces``, each a segment of its own; with ``then`` only the first, and end like that."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            for number, piece in enumerate(pieces):
                if number:
                    await asyncio.sleep(0.005)  # a segment of its own
                await peer.send(piece)
            if then is not None:
                then(peer)
                return

    return script


def early(answer: bytes, then: Callable[[Peer], None] | None = None) -> Script:
    """Answer when the head is there, and read nothing of the body."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer)
        if then is not None:
            then(peer)

    return script


def endless(beginning: bytes, more: bytes) -> Script:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(beginning)
        await peer.flood(more)

    return script


def after(count: int, script: Script, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") -> Script:
    """Answer ``count`` requests well, then follow ``script``."""

    async def both(peer: Peer) -> None:
        for _ in range(count):
            await peer.request()
            await peer.send(answer)
        await script(peer)

    return both


async def silent(peer: Peer) -> None:
    """Take a request and say nothing."""
    await peer.request()


async def trickling(peer: Peer) -> None:
    """An answer, a byte now and then."""
    await peer.request()
    for byte in b"HTTP/1.1 200 OK\r\nX-A: " + b"x" * 10_000:
        await peer.send(bytes([byte]))
        await asyncio.sleep(0.02)


async def trickling_body(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
    while True:
        await peer.send(b"x")
        await asyncio.sleep(0.02)
