"""Stored events out, to who may read them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from services.ingest.filters import compile_filter, within
from services.ingest.grpc.client import Client, Context
from services.ingest.grpc.events import decode
from services.ingest.tail import Listener, Tail
from tas_mcp.auth import AuthenticationFailed
from tas_mcp.callers import Caller
from tas_mcp.errors import Flaw, Rejected
from tas_mcp.messages import Event, unix_seconds
from tas_mcp.routing import payload_text
from tas_mcp.submission import MAX_UNIX_SECONDS
from tas_mcp.v1 import mcp_pb2


class Live:
    """The events that one client listens to. Each of its messages is sent on while it may be: the caller is looked up anew for
    each handful."""

    def __init__(self, tail: Tail, client: Client, caller: Caller) -> None:
        self._tail = tail
        self._client = client
        self._caller = caller

    async def stream(self, body: bytes, context: Context) -> None:
        """``StreamEvents``.

        Raises:
            Rejected: the request is not valid, or the caller may read no events (any more).
            Overloaded: too many listen, or this one is too slow (``Lagged``).
            Unavailable: the broker is away.
        """
        request = decode(mcp_pb2.StreamEventsRequest, body)
        self._caller.require("events:read")
        keep = within(compile_filter(request.event_types), self._caller)
        async with self._tail.listening(keep, _moment(request.start_timestamp), follow=request.follow) as listener:
            await self.tell(listener, context)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Listener]:
        """Listen to all events from now on. Raises as ``stream``."""
        async with self._tail.listening(within(None, self._caller)) as listener:
            yield listener

    async def tell(self, listener: Listener, context: Context) -> None:
        """Send events as they come. Raises as ``stream``."""
        while found := await listener.take():
            if self._client.caller() != self._caller:
                raise AuthenticationFailed(
                    "expired", f"what {self._caller.name} may do was changed: call again", self._caller.name
                )
            for stored in found:
                await context.write(_message(stored.event))


def _moment(seconds: int) -> datetime:
    if not 0 <= seconds <= MAX_UNIX_SECONDS:
        flaw = Flaw("/start_timestamp", f"{seconds} is not between 0 and {MAX_UNIX_SECONDS} (Unix seconds)")
        raise Rejected("INVALID_REQUEST", f"{flaw.pointer}: {flaw.detail}", [flaw])
    return datetime.fromtimestamp(seconds, UTC)


def _message(event: Event) -> bytes:
    return mcp_pb2.Event(
        event_id=event.event_id,
        event_type=event.event_type,
        source=event.source,
        timestamp=unix_seconds(event),
        data=payload_text(event.data).decode(),
        metadata=event.metadata,
    ).SerializeToString()
