"""What many tests need: a link to a real broker, its streams as ``control`` makes them, and patience with an end."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from services.control.settings import Settings
from services.control.streams import forward_consumer, process_consumer, streams
from tas_mcp import subjects
from tas_mcp.broker import BrokerError, Connection, JetStream, Message, Publisher
from tas_mcp.broker.jetstream import STREAM_NOT_FOUND
from tas_mcp.errors import TasError

POLL_SECONDS = 60.0
"""A machine may be slow; only what never comes takes so long."""


async def ensure_stream(jetstream: JetStream, config: dict[str, Any]) -> None:
    """Make the stream, or bring an existing one to ``config``."""
    try:
        await jetstream.call(f"STREAM.UPDATE.{config['name']}", config)
    except BrokerError as error:
        if error.err_code != STREAM_NOT_FOUND:
            raise
        await jetstream.call(f"STREAM.CREATE.{config['name']}", config)


class Broker(NamedTuple):
    """A link to a real broker."""

    connection: Connection
    jetstream: JetStream
    publisher: Publisher

    async def lay_out(self, **changes: Any) -> None:
        """Make the streams and the fixed consumer as ``control`` does; ``changes`` are settings of control."""
        settings = Settings(**{"store_bytes": 1024**3, **changes})
        for stream in streams(settings):
            await ensure_stream(self.jetstream, stream)
        await self.jetstream.ensure_consumer(subjects.EVENTS, process_consumer(settings))

    async def open_lane(self, target_id: str, **changes: Any) -> None:
        """Make a target's consumer."""
        await self.jetstream.ensure_consumer(subjects.DELIVERIES, forward_consumer(Settings(**changes), target_id))

    async def stream(self, name: str = "S", **changes: Any) -> None:
        """A small stream of ``<name>.>``."""
        config = {"name": name, "subjects": [f"{name}.>"], "storage": "file", "num_replicas": 1, "allow_direct": True}
        await ensure_stream(self.jetstream, {**config, "retention": "limits", **changes})

    async def consumer(self, name: str = "c", stream: str = "S", **changes: Any) -> None:
        config = {"durable_name": name, "ack_policy": "explicit", **changes}
        await self.jetstream.ensure_consumer(stream, config)

    async def messages(self, stream: str, subject: str = ">") -> list[Message]:
        """All that a stream holds below a subject filter, in order."""
        info = await self.jetstream.stream_info(stream)
        state = info["state"]
        found = [await self.jetstream.message(stream, seq) for seq in range(max(1, state["first_seq"]), state["last_seq"] + 1)]
        prefix = subject.removesuffix(">")
        return [message for message in found if message is not None and message.subject.startswith(prefix)]

    async def unacked(self, stream: str, consumer: str) -> tuple[int, int]:
        """How many messages are handed out and not acked, and how many were not handed out yet."""
        info = await self.jetstream.consumer_info(stream, consumer)
        return info["num_ack_pending"], info["num_pending"]


@asynccontextmanager
async def linked(url: str, **options: Any) -> AsyncIterator[Broker]:
    """A connected link; ``options`` go to its publisher."""
    connection = Connection([url], "test")
    async with connection.running():
        await connection.ready()
        publisher = Publisher(connection, **options)
        async with publisher.running():
            yield Broker(connection, JetStream(connection), publisher)


async def until(condition: Callable[[], Any], seconds: float = POLL_SECONDS) -> Any:
    """Ask (``condition`` may be a coroutine function) until the answer is true, and return it; fail when it never is. What the
    broker cannot say yet is asked again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = condition()
            found: Any = await answer if inspect.isawaitable(answer) else answer
        except TasError:
            found = None
        if found:
            return found
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.01)
