"""Target types: one file each, which sends one delivery and says how it went. What is common to all is the lane's.

To add a type: its Struct in ``tas_mcp.targets``, a file here with its ``open_*`` function, and a line in ``open_sender``.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from services.forward.targets.http import open_http
from tas_mcp.messages import Event
from tas_mcp.targets import AnyTarget


class Sender(Protocol):
    """A live way to one destination."""

    async def send(self, event: Event) -> int:
        """Deliver once; returning (the target's status code) means delivered.

        Safe to call concurrently. Must not retry, time out, log or count: the lane does, for every type.

        Raises:
            Refused: it never will be.
            Failed: try again.
        """
        ...


@asynccontextmanager
async def open_sender(target: AnyTarget) -> AsyncIterator[Sender]:
    """Open the sender for a target's type; leaving closes its connections."""
    async with open_http(target) as sender:
        yield sender
