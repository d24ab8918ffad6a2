"""A batch of events: each entry is accepted or refused on its own."""

import asyncio
from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import Raw

from services.ingest.intake import Accepted, Counted, Intake, Settle
from tas_mcp import submission
from tas_mcp.callers import Caller
from tas_mcp.errors import Overloaded, Rejected, TasError
from tas_mcp.validation import flaw

SLICE = 100
"""How many events of a batch are published before looking whether there is room for more."""

_decode = msgspec.json.Decoder(list[Raw]).decode


def read(body: bytes, max_bytes: int, max_events: int) -> Sequence[Raw]:
    """The entries of a JSON array, each still unread.

    Raises:
        Rejected: the body as a whole is malformed (``INVALID_EVENT``) or too large (``BATCH_TOO_LARGE``).
    """
    if len(body) > max_bytes:
        raise Rejected("BATCH_TOO_LARGE", f"the batch has {len(body)} bytes; the limit is {max_bytes}")
    try:
        entries = _decode(body)
    except (ValueError, RecursionError) as error:
        what = flaw(error)
        raise Rejected("INVALID_EVENT", f"the batch is no JSON array of events: {what.detail}", [what]) from None
    if not entries:
        raise Rejected("INVALID_EVENT", "the batch is empty")
    if len(entries) > max_events:
        raise Rejected("BATCH_TOO_LARGE", f"the batch has {len(entries)} events; the limit is {max_events}")
    return entries


async def submit(entries: Sequence[Raw], intake: Intake, caller: Caller, counted: Counted) -> list[Accepted | TasError]:
    """Store the entries; what came of each, in their order. A caller's limits are held against the batch as a whole."""
    try:
        intake.admit(caller, len(entries), sum(map(len, entries)))
    except Overloaded as error:
        for _ in entries:
            counted.count(error)
        return [error] * len(entries)
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
        intake.take(entry, len(entry), submission.read, caller, counted, settle)
    await done.wait()
    return [answers[index] for index in range(len(entries))]
