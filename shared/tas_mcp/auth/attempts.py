"""Callers who could not say who they are, or had not the scope for what they tried, in the audit log: the first at once, and
however many there are, few records.

What comes soon after is told together: the addresses that failed most by a record each, all others by one with their counts.
While it goes on, the time between two tellings doubles, from ``SHORT_SECONDS`` to ``LONG_SECONDS``: nobody pushes the rest of the
log out by failing.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tas_mcp.audit import Audit
from tas_mcp.auth.failures import Failure
from tas_mcp.background import background
from tas_mcp.messages import AuditRecord

SHORT_SECONDS = 10.0
LONG_SECONDS = 600.0
SINGLED_OUT = 4
"""How many get a record of their own each time."""
KEPT = 1000
"""How many are told apart between two tellings; of more only the number is kept."""
NAME_CHARACTERS = 100


class Who(NamedTuple):
    """Whose failures are counted together."""

    address: str
    name: str
    reason: str


class Tally:
    """Failures since the last telling."""

    def __init__(self) -> None:
        self._counts: Counter[Who] = Counter()
        self._others: Counter[str] = Counter()
        self._first = self._last = 0.0

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, failure: Failure, now: float) -> None:
        """Count it; ``now`` is in Unix seconds."""
        self._first, self._last = self._first or now, now
        who = Who(failure.address, failure.name[:NAME_CHARACTERS], failure.reason)
        if who in self._counts or len(self._counts) < KEPT:
            self._counts[who] += 1
        else:
            self._others[who.reason] += 1

    def records(self) -> Iterator[AuditRecord]:
        """What the log is told of them, the most frequent first."""
        ranked = self._counts.most_common()
        for who, count in ranked[:SINGLED_OUT]:
            yield self._record(who.address, who.name, count, {"reason": who.reason})
        rest, reasons = ranked[SINGLED_OUT:], Counter(self._others)
        for who, count in rest:
            reasons[who.reason] += count
        if reasons:
            addresses = len({who.address for who, _ in rest})
            more = {"addresses_not_counted": True} if self._others else {}
            yield self._record("", "", reasons.total(), {"reasons": dict(reasons), "addresses": addresses, **more})

    def _record(self, address: str, name: str, count: int, details: dict[str, Any]) -> AuditRecord:
        span = {"count": count, "first_at": self._first, "last_at": self._last}
        return AuditRecord(
            at=self._last,
            kind="authentication",
            action="failed",
            id=name,
            author=name if details.get("reason") == "scope" else "anonymous",
            address=address,
            details={**details, **span},
        )


class Attempts:
    """Keeps the record of one process."""

    def __init__(
        self,
        audit: Audit,
        short: float = SHORT_SECONDS,
        long: float = LONG_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._audit = audit
        self._short = short
        self._long = long
        self._clock = clock
        self._tally = Tally()
        self._any = asyncio.Event()

    def tell(self, failure: Failure) -> None:
        """Take note of a failure; returns at once."""
        self._tally.add(failure, self._clock())
        self._any.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Attempts"]:
        """Write the records while inside; leaving writes what is left."""
        try:
            async with background(self._write_all()):
                yield self
        finally:
            await self._write()

    async def _write_all(self) -> None:
        pause = self._short
        while True:
            await self._any.wait()
            await self._write()
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._long) if self._any.is_set() else self._short

    async def _write(self) -> None:
        self._any.clear()
        tally, self._tally = self._tally, Tally()
        for record in tally.records():
            await self._audit.write(record)
