"""A batch of events, each of which is accepted or refused on its own."""

from collections.abc import Callable
from functools import partial

from services.ingest.grpc import answers
from services.ingest.grpc.events import decode_batch, read
from services.ingest.intake import Accepted, Counted, Intake
from tas_mcp.callers import Caller
from tas_mcp.errors import TasError

_NOT_YET = TasError("not settled yet")


class Batch:
    """An ``EventBatch``, and the answers to it as they come.

    Raises:
        Rejected: it cannot be read (``INVALID_REQUEST``), or has more than ``max_events`` (``BATCH_TOO_LARGE``).
    """

    def __init__(self, body: bytes, max_events: int) -> None:
        given = decode_batch(body, max_events)
        self.sequence = given.sequence
        self.events = given.events
        self._answers: list[Accepted | TasError] = [_NOT_YET] * len(self.events)
        self._missing = len(self.events)

    def submit(self, intake: Intake, caller: Caller, counted: Counted, done: Callable[[], object]) -> None:
        """Store the events of a batch that was admitted; ``done`` is called when all are settled, now or later."""
        self._done = done
        if not self._missing:
            done()
        for index, event in enumerate(self.events):
            intake.take(
                event, event.ByteSize(), read, caller, counted, partial(self._settle, index), trace=intake.trace(counted, "")
            )

    def ack(self) -> bytes:
        """What came of each."""
        return answers.ack(self.sequence, self._answers).SerializeToString()

    def _settle(self, index: int, answer: Accepted | TasError) -> None:
        self._answers[index] = answer
        self._missing -= 1
        if not self._missing:
            self._done()
