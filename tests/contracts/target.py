"""What every target type keeps: a ``Destination`` of a type runs these on the real thing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from msgspec import Raw

from services.forward.targets import BatchSender, Sender, open_sender
from services.forward.verdict import Failed, Refused
from tas_mcp import targets
from tas_mcp.messages import Event
from tests.ports import free_port
from tests.services.forward.rig import OPEN
from tests.shared.rig import until

DEADLINE = 60.0


class Destination(Protocol):
    """A destination of one type that a test can look into."""

    def document(self, **config: Any) -> dict[str, Any]:
        """The target document that leads to it, with more in its ``config``."""
        ...

    def elsewhere(self, port: int) -> dict[str, Any]:
        """The same, at another port of this machine."""
        ...

    async def received(self, count: int) -> list[tuple[str, str]]:
        """Wait until it has ``count`` deliveries; the id and the payload of each."""
        ...

    @property
    def port(self) -> int:
        """Where it listens."""
        ...

    def refusing(self) -> AbstractAsyncContextManager[None]:
        """Inside, what is sent is refused for good."""
        ...


def event(number: int = 1, data: bytes = b'{"b": 1, "a":[1.0,"\xc3\xa9"]}') -> Event:
    return Event(
        event_id=f"e{number}",
        event_type="user.created",
        source="auth",
        timestamp=1703001234,
        accepted_at=1703001235_000000000,
        data=Raw(data),
        metadata={"region": "eu"},
    )


@asynccontextmanager
async def opened(document: dict[str, Any]) -> AsyncIterator[Sender]:
    async with open_sender(targets.check(document)[0], OPEN) as sender:
        yield sender


class TargetContract:
    """Subclass it as ``Test...`` with a fixture ``destination``."""

    async def test_a_delivery_arrives_as_it_was_sent(self, destination: Destination) -> None:
        async with opened(destination.document()) as sender:
            assert 200 <= await sender.send(event()) < 300
            assert await destination.received(1) == [("e1", '{"b": 1, "a":[1.0,"é"]}')]

    async def test_many_at_once_arrive_each(self, destination: Destination) -> None:
        async with opened(destination.document()) as sender:
            statuses = await asyncio.gather(*(sender.send(event(number)) for number in range(100)))
            assert all(200 <= status < 300 for status in statuses)
            assert sorted(await destination.received(100)) == sorted((f"e{n}", '{"b": 1, "a":[1.0,"é"]}') for n in range(100))

    async def test_a_batch_arrives_whole(self, destination: Destination) -> None:
        async with opened(destination.document()) as sender:
            if not isinstance(sender, BatchSender):
                pytest.skip("this type sends no batches")
            outcomes = await sender.send_batch([event(number) for number in range(50)])
            assert [isinstance(outcome, int) and 200 <= outcome < 300 for outcome in outcomes] == [True] * 50
            assert sorted(key for key, _ in await destination.received(50)) == sorted(f"e{number}" for number in range(50))

    async def test_refused(self, destination: Destination) -> None:
        async with destination.refusing(), opened(destination.document()) as sender:
            with pytest.raises(Refused) as caught:
                await sender.send(event())
            assert 400 <= caught.value.status < 600
            assert caught.value.detail
            if isinstance(sender, BatchSender):
                assert all(isinstance(outcome, Refused) for outcome in await _batch(sender))

    async def test_nobody_there(self, destination: Destination) -> None:
        async with asyncio.timeout(DEADLINE), opened(destination.elsewhere(free_port())) as sender:
            with pytest.raises(Failed):
                await sender.send(event())
            if isinstance(sender, BatchSender):
                assert all(isinstance(outcome, Failed) for outcome in await _batch(sender))

    async def test_an_attempt_that_hangs_can_be_cancelled(self, destination: Destination) -> None:
        async with _black_hole() as port, opened(destination.elsewhere(port)) as sender:
            hanging = asyncio.create_task(sender.send(event()))
            assert not (await asyncio.wait((hanging,), timeout=0.3))[0], "it was to hang"
            async with asyncio.timeout(DEADLINE):
                hanging.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await hanging

    async def test_what_hangs_does_not_keep_it_from_closing(self, destination: Destination) -> None:
        async with _black_hole() as port, asyncio.timeout(DEADLINE):
            async with opened(destination.elsewhere(port)) as sender:
                hanging = asyncio.create_task(sender.send(event()))
                assert not (await asyncio.wait((hanging,), timeout=0.3))[0], "it was to hang"
                hanging.cancel()
            await asyncio.wait((hanging,))

    async def test_closing_leaves_no_connection(self, destination: Destination) -> None:
        before = established(destination.port)
        async with opened(destination.document()) as sender:
            await sender.send(event())
            assert established(destination.port) > before
        await until(lambda: established(destination.port) == before)


def established(port: int) -> int:
    """How many connections a local port has taken (proc(5), net/tcp: state 01)."""
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path("/proc/net", name).read_text().splitlines()[1:]]
    return sum(1 for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01")


@asynccontextmanager
async def _black_hole() -> AsyncIterator[int]:
    """A port that takes connections and says nothing."""
    over = asyncio.Event()

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.transport.abort()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        over.set()
        server.close()
        await server.wait_closed()


async def _batch(sender: BatchSender) -> list[int | Failed | Refused]:
    """A batch of two, each taken alone where it is refused as a whole: what the lane does."""
    try:
        return await sender.send_batch([event(1), event(2)])
    except (Failed, Refused) as error:
        return [error, error]
