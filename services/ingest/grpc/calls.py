"""The calls that are under way. Here is their edge: what it raises becomes a status; the drain waits for their ends."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc

from services.ingest.grpc.answers import failure
from services.ingest.grpc.client import Context
from tas_mcp import telemetry
from tas_mcp.errors import TasError, Unavailable

log = telemetry.logger("grpc")

Unary = Callable[[bytes, Context], Awaitable[bytes]]
Streaming = Callable[[Any, Context], Awaitable[None]]
Stop = Callable[[], object]

STREAMS = telemetry.gauge("mcp_grpc_streams", "Open streams of mcp.v1.MCPService")
STOPPING = "the server is stopping: open the stream again, and send what was not acked again"
DETAILS = "grpc-status-details-bin"
_STATUS = {code.value[0]: code for code in grpc.StatusCode}


class Calls:
    """Wraps the handlers, and knows which of their calls have not ended."""

    def __init__(self) -> None:
        self.streams = 0
        self._open = 0
        self._draining = False
        self._stops: set[Stop] = set()
        self._ended = asyncio.Event()

    def unary(self, handler: Unary) -> Unary:
        """Wrap a handler of calls with one message each way."""

        async def answer(request: bytes, context: Context) -> bytes:
            with self._counted():
                try:
                    return await handler(request, context)
                except Exception as error:  # noqa: BLE001  (an edge: every error becomes a status)
                    await _end(context, error)

        return answer

    def streaming(self, handler: Streaming) -> Streaming:
        """Wrap a handler of streams, which reads (where more than one message comes) and writes by its context."""

        async def run(request: Any, context: Context) -> None:
            with self._counted(), self._streaming():
                try:
                    await handler(request, context)
                except Exception as error:  # noqa: BLE001  (as above)
                    await _end(context, error)

        return run

    async def while_open(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work of a stream, which the drain cuts short.

        Raises:
            Unavailable: it was.
        """
        task = asyncio.create_task(work)
        try:
            with self.stopping(task.cancel):
                await asyncio.wait((task,))
            if task.cancelled():
                raise Unavailable(STOPPING)
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @contextmanager
    def stopping(self, stop: Stop) -> Iterator[None]:
        """Call ``stop`` when the server drains, which a stream does not see by itself."""
        self._stops.add(stop)
        if self._draining:
            stop()
        try:
            yield
        finally:
            self._stops.discard(stop)

    async def drain(self) -> None:
        """Tell all streams to end, and wait until no call is left."""
        self._draining = True
        for stop in list(self._stops):
            stop()
        while self._open:
            self._ended.clear()
            await self._ended.wait()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            self._ended.set()

    @contextmanager
    def _streaming(self) -> Iterator[None]:
        self.streams += 1
        STREAMS.set(self.streams)
        try:
            yield
        finally:
            self.streams -= 1
            STREAMS.set(self.streams)


async def _end(context: Context, error: Exception) -> NoReturn:
    if not isinstance(error, TasError):
        log.error("call failed", exc_info=error)
        error = TasError(f"internal error ({type(error).__name__}): see the log")
    code, text, details = failure(error)
    await context.abort(_STATUS[code], text, ((DETAILS, details),))
