"""A batch of events: each entry is accepted or refused on its own."""

import asyncio
from collections.abc import Sequence
from functools import partial

from msgspec import Raw

from services.ingest.intake import Accepted, Counted, Intake, Reader, Settle
from tas_mcp import submission
from tas_mcp.callers import Caller
from tas_mcp.errors import Overloaded, TasError

SLICE = 100
"""How many events of a batch are published before looking whether there is room for more."""


async def submit(
    entries: Sequence[bytes | Raw],
    intake: Intake,
    caller: Caller,
    counted: Counted,
    read: Reader[bytes | Raw] = submission.read,
    traceparent: str = "",
) -> list[Accepted | TasError]:
    """Store the entries, of which ``read`` makes events; what came of each, in their order. A caller's limits are held against
    the batch as a whole. Each event has a trace of its own, or its part of the caller's (``traceparent``)."""
    try:
        intake.admit(caller, len(entries), sum(map(len, entries)))
    except Overloaded as error:
        for _ in entries:
            counted.count(error)
        return [error] * len(entries)
    if not entries:
        return []
    answers: dict[int, Accepted | TasError] = {}
    done = asyncio.Event()

    def settle_at(index: int, answer: Accepted | TasError) -> None:
        answers[index] = answer
        if len(answers) == len(entries):
            done.set()

    for index, entry in enumerate(entries):
        if index % SLICE == 0:
            await intake.room()
        settle: Settle = partial(settle_at, index)
        intake.take(entry, len(entry), read, caller, counted, settle, trace=intake.trace(counted, traceparent))
    await done.wait()
    return [answers[index] for index in range(len(entries))]
