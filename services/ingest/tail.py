"""The live tail of the stored events, for those who listen at this process: what is in EVENTS from a start on, then what comes.

    EVENTS --pages--> reader --filters--> listeners, each with a bounded queue
           --pages--> a listener that starts in the past, until it is up with the reader

No consumer is made. A plain subscription on the events' subjects is the hint, batched direct gets are the value, and a look every
second finds what no hint told. Nothing is read while nobody listens.

The rules kept here: a listener gets each event that it wants once, in the order of the stream, whatever becomes of the link. It
never waits for another, and one that does not keep up is told how many events it missed, and is cut.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import NamedTuple

from services.ingest.filters import Keep
from tas_mcp import subjects, telemetry
from tas_mcp.background import background
from tas_mcp.broker import BrokerError, Connection, JetStream, Message
from tas_mcp.errors import Overloaded, Unavailable
from tas_mcp.messages import Event, decode_event
from tas_mcp.routing import View

log = telemetry.logger("tail")

PAGE = 1000
"""How many events are read at once."""
PACE_SECONDS = 0.01
"""The least time between two looks, so that in one many events are read."""
LOOK_SECONDS = 1.0
QUIET = 2
"""After so many looks in a row that found nothing the next hint is waited for: a hint may come before its event is stored."""
SLICE_SECONDS = 0.002
"""How long events are handed out before all else that waits gets its turn."""
AGAIN_SECONDS = 5.0

LISTENERS = telemetry.gauge("mcp_listeners", "Who listens to the stored events, over all protocols")
CUT = telemetry.counter("mcp_listeners_lagged", "Listeners that were cut, as they did not keep up")

Start = int | datetime | None
"""Where to begin: after this sequence of EVENTS; with what was stored at this time or later; with what comes from now on."""


class Stored(NamedTuple):
    """A stored event: its sequence in EVENTS, and its JSON as it is stored."""

    sequence: int
    event: Event
    text: bytes


class Lagged(Overloaded):
    """A listener did not keep up; ``missed`` events that it wanted were not kept for it."""

    def __init__(self, missed: int) -> None:
        super().__init__(f"the events came faster than they were read: {missed} were missed", 1.0)
        self.missed = missed


class Listener:
    """One who listens: see ``Tail.listening``."""

    def __init__(self, tail: "Tail", keep: Keep | None, bounds: tuple[int, int]) -> None:
        self._tail = tail
        self._keep = keep
        self._max_events, self._max_bytes = bounds
        self._queue: list[Stored] = []
        self._bytes = 0
        self._missed = 0
        self._some = asyncio.Event()
        self.next = 0
        """The first sequence that it has not seen."""
        self.end: int | None = None
        """The last sequence that it wants, where it does not follow."""

    async def take(self) -> list[Stored]:
        """Wait for events, and take all that are there. None are there only at the end, for who does not follow. Nothing is lost
        when it is cancelled.

        Raises:
            Lagged: it did not keep up, and gets no more.
            Unavailable: the broker is away, and it does not follow. Who does waits.
        """
        empty = 0
        while not self._tail.joined(self):
            if self.end is not None and (self.next > self.end or empty == QUIET):
                return []
            before = self.next
            if found := await self._tail.past(self):
                return found
            empty = empty + 1 if self.next == before else 0
        await self._some.wait()
        if self._missed:
            CUT.inc()
            raise Lagged(self._missed)
        self._some.clear()
        found, self._queue, self._bytes = self._queue, [], 0
        return found

    def wants(self, stored: Stored, view: View) -> bool:
        """Whether it has not seen it yet, and it is one of those that it listens to."""
        if stored.sequence < self.next or (self.end is not None and stored.sequence > self.end):
            return False
        return self._keep is None or self._keep(view)

    def offer(self, stored: Stored) -> None:
        """Keep an event until it is taken. Where there is no room all are let go: what has a gap is no tail."""
        self._some.set()
        size = self._bytes + len(stored.text)
        if self._missed or len(self._queue) >= self._max_events or (self._queue and size > self._max_bytes):
            self._missed += len(self._queue) + 1
            self._queue = []
            return
        self._queue.append(stored)
        self._bytes = size


class Tail:
    """Reads EVENTS for at most ``most`` listeners, of which each may have ``events`` and ``size`` bytes waiting for it."""

    def __init__(self, connection: Connection, *, most: int = 500, events: int = 10_000, size: int = 4 * 1024 * 1024) -> None:
        self._connection = connection
        self._jetstream = JetStream(connection)
        self._most = most
        self._bounds = events, size
        self._listeners: set[Listener] = set()
        self._live: set[Listener] = set()
        self._next: int | None = None
        """The first sequence that the reader has not handed out; None while nobody listens."""
        self._wanted = asyncio.Event()
        self._hinted = asyncio.Event()
        self._turn = asyncio.Lock()
        self._doubtful = False
        self._told = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Tail"]:
        async with background(self._work()):
            yield self

    @asynccontextmanager
    async def listening(self, keep: Keep | None = None, start: Start = None, *, follow: bool = True) -> AsyncIterator[Listener]:
        """Listen to the events that ``keep`` wants (None: all). Who does not ``follow`` gets those that are stored already.

        Raises:
            Overloaded: too many listen already.
            Unavailable: the broker is away.
        """
        if len(self._listeners) >= self._most:
            raise Overloaded(f"{self._most} listen to events already: no more are taken by this process", AGAIN_SECONDS)
        listener = Listener(self, keep, self._bounds)
        self._listeners.add(listener)
        LISTENERS.inc()
        try:
            await self._place(listener, start, follow)
            yield listener
        finally:
            LISTENERS.dec()
            self._listeners.discard(listener)
            self._live.discard(listener)
            if not self._listeners:
                self._next = None
                self._hinted.set()

    def joined(self, listener: Listener) -> bool:
        """Whether the reader hands events to it. It does from where the listener has seen all that the reader has handed out."""
        if listener in self._live:
            return True
        if listener.end is not None or self._next is None or self._next > listener.next:
            return False
        self._live.add(listener)
        return True

    async def past(self, listener: Listener) -> list[Stored]:
        """The next events that a listener wants of those that the reader has handed out before; none where the next page has
        none, or cannot be read. One page is read at a time, for all listeners together, and after each as long a rest is taken as
        it was work: live traffic goes first."""
        found: list[Stored] = []
        following = listener.next
        async with self._turn:
            began = time.thread_time()
            try:
                messages, _ = await self._jetstream.page(subjects.EVENTS, subjects.ALL_EVENTS, listener.next, PAGE)
            except (BrokerError, Unavailable) as error:
                if listener.end is not None:
                    raise
                self._tell(error)
                messages = []
            for index, message in enumerate(messages):
                stored = _read(message)
                following = message.sequence + 1
                if stored is not None and listener.wants(stored, View(stored.event)):
                    found.append(stored)
                if index % 100 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(time.thread_time() - began)
        if not messages:
            await asyncio.sleep(LOOK_SECONDS)
        listener.next = following
        return found

    async def _place(self, listener: Listener, start: Start, follow: bool) -> None:
        first, last = await self._ends()
        if isinstance(start, datetime):
            at = start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            request = {"start_time": at, "next_by_subj": subjects.ALL_EVENTS, "batch": 1}
            found = await self._jetstream.direct(subjects.EVENTS, request)
            listener.next = found[0].sequence if found else last + 1
        else:
            listener.next = last + 1 if start is None else max(min(start, last) + 1, first)
        if not follow:
            listener.end = last
        if self._next is None:
            self._next = last + 1
            self._wanted.set()

    async def _ends(self) -> tuple[int, int]:
        """The first and the last sequence that there are."""
        state = (await self._jetstream.stream_info(subjects.EVENTS))["state"]
        return int(state["first_seq"]), int(state["last_seq"])

    async def _work(self) -> None:
        """Read while somebody listens."""
        with self._connection.watched(up=self._doubt):
            while True:
                if self._next is None:
                    self._wanted.clear()
                    await self._wanted.wait()
                await self._follow()

    def _doubt(self) -> None:
        """A new link may lead to a broker that has lost what it had not yet written to its disk."""
        self._doubtful = True
        self._hinted.set()

    async def _follow(self) -> None:
        """Read while there is anything to read; then wait for a hint. So hints, each a whole event, cost nothing under load."""
        quiet = 0
        while self._next is not None and quiet < QUIET:
            quiet = 0 if await self._look() else quiet + 1
            await asyncio.sleep(PACE_SECONDS)
        self._hinted.clear()
        async with self._connection.subscribed(subjects.ALL_EVENTS, lambda _: self._hinted.set()):
            if self._next is None or await self._look():  # it came before the broker knew of the subscription
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._hinted.wait()

    async def _look(self) -> bool:
        """Hand out what there is. Whether there was anything."""
        try:
            return self._connection.connected and await self._hand_out()
        except (BrokerError, Unavailable) as error:
            self._tell(error)
        except Exception:
            log.exception("events not handed out")
        return False

    async def _hand_out(self) -> bool:
        """Read the next page, and hand it out. Whether there was anything."""
        if self._doubtful:
            self._step_back((await self._ends())[1])
            self._doubtful = False
        if self._next is None:
            return False
        messages, _ = await self._jetstream.page(subjects.EVENTS, subjects.ALL_EVENTS, self._next, PAGE)
        self._told = ""
        began = time.perf_counter()
        for message in messages:
            sequence = message.sequence
            if not self._awaits(sequence):  # all who listened have left meanwhile, and others may have come, who start later
                continue
            if self._live and (stored := _read(message)) is not None:
                view = View(stored.event)
                for listener in self._live:
                    if listener.wants(stored, view):
                        listener.offer(stored)
            self._next = sequence + 1
            if time.perf_counter() - began > SLICE_SECONDS:
                await asyncio.sleep(0)
                began = time.perf_counter()
        return bool(messages)

    def _awaits(self, sequence: int) -> bool:
        return self._next is not None and sequence >= self._next

    def _step_back(self, last: int) -> None:
        """Start at the end of a stream that is shorter than it was."""
        if self._next is None or self._next <= last + 1:
            return
        log.warning("the stream of events is shorter than it was", was=self._next - 1, last=last)
        self._next = last + 1
        for listener in self._listeners:
            listener.next = min(listener.next, last + 1)

    def _tell(self, error: Exception) -> None:
        if str(error) != self._told:
            log.warning("events cannot be read, it is tried again", detail=str(error))
        self._told = str(error)


def _read(message: Message) -> Stored | None:
    """None where it is no event of ours."""
    try:
        return Stored(message.sequence, decode_event(message.data), message.data)
    except (ValueError, RecursionError):
        return None
