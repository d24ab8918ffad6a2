"""Events that people send to try something out, checked as ingest checks what it accepts."""

import time
import uuid
from typing import Any

import msgspec
from msgspec import Raw

from tas_mcp import submission
from tas_mcp.errors import Flaw, Rejected
from tas_mcp.messages import Event

LIMITS = submission.Limits()
DEFAULT: dict[str, Any] = {
    "event_type": "tas.test",
    "source": "tas",
    "data": {"message": "A test, made up: no event was accepted."},
}


def sample(given: Any) -> Event:
    """The event of a request's member ``event``, as it would be stored.

    Raises:
        Rejected: ``INVALID_EVENT`` or ``EVENT_TOO_LARGE``; the pointers start at ``/event``.
    """
    try:
        return submission.read(Raw(msgspec.json.encode(given)), LIMITS, time.time_ns(), lambda _: str(uuid.uuid4()))[0]
    except Rejected as error:
        flaws = [Flaw("/event" + flaw.pointer, flaw.detail) for flaw in error.flaws]
        raise Rejected(error.code, error.detail, flaws) from None
