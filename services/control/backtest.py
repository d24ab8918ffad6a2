"""Rules tried on stored events, and compared with those that are in force. Nothing is sent or stored.

The rules kept here: it is bounded in events and in seconds, and says when it was cut; it reads without a consumer; it works in
short slices and rests four times as long, so that neither this process nor the broker is taken from live traffic.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from tas_mcp import subjects
from tas_mcp.broker import JetStream, Message
from tas_mcp.errors import Overloaded
from tas_mcp.messages import Event, decode_event
from tas_mcp.routing import Decision, RuleSet, TransformFailed, View

BATCH = 1000
"""How many events are read at once; the broker gives no more."""
BATCH_BYTES = 4 * 1024 * 1024
SLICE_SECONDS = 0.002
RESTS = 4
"""How much longer it rests than it works, in seconds of this thread's processor (reading is the greater part of the work)."""
EXAMPLES = 10
"""How many events of each kind are shown."""
AGAIN_SECONDS = 5.0


class Span(NamedTuple):
    """The events to read: the ``last`` so many; or those stored since a time and before another (None: without an end)."""

    last: int | None = None
    since: datetime | None = None
    before: datetime | None = None


class Tally:
    """Counts what the tried rules decide, and where the running ones (None: there are none) decide otherwise."""

    def __init__(self, tried: RuleSet, running: RuleSet | None) -> None:
        self._tried = tried
        self._running = running
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[dict[str, Any]]] = {"newly_matched": [], "no_longer_matched": [], "errors": []}

    def add(self, message: Message) -> None:
        """Take one stored event."""
        self._counts["evaluated"] += 1
        try:
            event = decode_event(message.data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            text = f"the event cannot be read: {error}"
            self._example("errors", lambda: {"seq": message.sequence, "error": text})
            return
        view = View(event)
        decision = self._tried.decide(view)
        before = self._running is not None and self._running.decide(view) is not None
        if decision is not None:
            self._counts["matched"] += 1
            self._transform(message, view, decision)
        if (decision is not None) != before:
            kind = "no_longer_matched" if before else "newly_matched"
            self._example(kind, lambda: {**_named(message, event), "why": self._tried.explain(view)})

    def _transform(self, message: Message, view: View, decision: Decision) -> None:
        if decision.reshape is None:
            return
        try:
            decision.reshape(view)
        except TransformFailed as error:
            text = str(error)
            self._example("errors", lambda: {**_named(message, view.event), "error": text})

    def _example(self, kind: str, shown: Callable[[], dict[str, Any]]) -> None:
        self._counts[kind] += 1
        if len(self._examples[kind]) < EXAMPLES:
            self._examples[kind].append(shown())

    def told(self) -> dict[str, Any]:
        counts = ("evaluated", "matched", "errors", "newly_matched", "no_longer_matched")
        return {**{name: self._counts[name] for name in counts}, "examples": self._examples}


def _named(message: Message, event: Event) -> dict[str, Any]:
    return {"seq": message.sequence, "event_id": event.event_id, "event_type": event.event_type}


class Backtests:
    """Runs them, one at a time, each over at most ``limit`` events and for at most ``seconds``."""

    def __init__(self, jetstream: JetStream, limit: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._jetstream = jetstream
        self.limit = limit
        self._seconds = seconds
        self._clock = clock
        self._busy = False
        self._rested = 0.0

    async def run(self, tally: Tally, span: Span, gone: Callable[[], bool]) -> bool:
        """Give the tally the stored events of the span, oldest first; whether it got them all. Ends early, too, when ``gone``
        says that nobody waits for the answer any more.

        Raises:
            Overloaded: another one is running.
        """
        with self._alone():
            deadline = self._clock() + self._seconds
            self._rested = time.thread_time()
            first, last = await self._sequences(span)
            end = min(last, first + self.limit - 1)
            while first <= end:
                request = {
                    "seq": first,
                    "next_by_subj": subjects.ALL_EVENTS,
                    "batch": min(BATCH, end - first + 1),
                    "max_bytes": BATCH_BYTES,
                }
                found = await self._jetstream.direct(subjects.EVENTS, request)
                if not found:
                    break
                first = found[-1].sequence + 1
                if first > end + 1:  # there are gaps
                    found = [message for message in found if message.sequence <= end]
                if not await self._evaluate(tally, found, deadline) or gone():
                    return False
            return end == last

    async def _evaluate(self, tally: Tally, messages: list[Message], deadline: float) -> bool:
        """Whether there was time for all of them."""
        for message in messages:
            tally.add(message)
            if self._clock() > deadline:
                return False
            worked = time.thread_time() - self._rested
            if worked > SLICE_SECONDS:
                await asyncio.sleep(RESTS * worked)
                self._rested = time.thread_time()
        return True

    async def _sequences(self, span: Span) -> tuple[int, int]:
        """The first and the last sequence of a span."""
        state = (await self._jetstream.stream_info(subjects.EVENTS))["state"]
        first, last = int(state["first_seq"]), int(state["last_seq"])
        if span.last is not None:
            return max(first, last - span.last + 1), last
        if span.since is not None:
            first = await self._stored_since(span.since, last + 1)
        if span.before is not None:
            last = await self._stored_since(span.before, last + 1) - 1
        return first, last

    async def _stored_since(self, at: datetime, otherwise: int) -> int:
        """The sequence of the first event stored at a time or later."""
        start = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        request = {"start_time": start, "next_by_subj": subjects.ALL_EVENTS, "batch": 1}
        found = await self._jetstream.direct(subjects.EVENTS, request)
        return found[0].sequence if found else otherwise

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._busy:
            raise Overloaded("another backtest is running; only one does at a time", AGAIN_SECONDS)
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
