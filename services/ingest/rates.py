"""How much may be sent, and by whom. Pure: token buckets (``tas_mcp.rate``), the time passed in, a bounded number of them.

A limit holds over all replicas: each grants its share of it. What is asked for is taken as a whole, also where it is more than
the bucket holds: the next ones wait the longer for it. So a large batch needs no large bucket, and the average holds.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from msgspec import Struct

from tas_mcp.callers import Caller
from tas_mcp.errors import Overloaded, Quota
from tas_mcp.origin import subscriber
from tas_mcp.rate import Rate
from tas_mcp.recent import Recent

KEPT = 16_384
"""Of how many callers, and of how many addresses, the buckets are kept at least."""
TYPES_KEPT = 65_536
"""How many event types are known at least; one that was forgotten is new again."""
HOUR = 3600
COUNT_SECONDS = 1.0
"""How often the replicas are counted."""

UNITS = ("requests", "events", "content-bytes")


class Allowance(Struct, frozen=True):
    """What may be sent in a second; 0: without limit."""

    requests: int = 0
    events: int = 0
    bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.requests or self.events or self.bytes)


class _Bucket(NamedTuple):
    rate: Rate
    unit: int
    """Which of the amounts of a request it counts."""
    quota: Quota
    whose: str


def _refusal(whose: str, quota: Quota, seconds: float) -> Overloaded:
    what = quota.unit.removeprefix("content-").replace("-", " ")
    return Overloaded(
        f"{whose} may send {quota.amount} {what} in {quota.seconds} s: try again in {seconds:.3g} s", seconds, quota
    )


class Shares:
    """Among how many replicas a limit is divided, counted at most once a second."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._replicas = 1
        self._next = float("-inf")

    def at(self, now: float) -> int:
        if now >= self._next:
            self._replicas = max(1, self._count())
            self._next = now + COUNT_SECONDS
        return self._replicas


class Rates:
    """The limits of each caller and of all together; a bucket holds ``burst_seconds`` of its rate."""

    def __init__(self, caller: Allowance, total: Allowance, burst_seconds: int, shares: Shares) -> None:
        self._burst_seconds = burst_seconds
        self._shares = shares
        self._total = tuple(self._buckets(total, "total", "all callers together"))
        self._callers: Recent[str, tuple[_Bucket, ...]] = Recent(
            lambda name: (*self._buckets(caller, "caller", name), *self._total), KEPT
        )

    def admit(self, caller: Caller, events: int, size: int, now: float) -> None:
        """Take one request with so many events, of ``size`` bytes together.

        Raises:
            Overloaded: nothing was taken.
        """
        buckets = self._callers.find(caller.name)
        for rate, _, quota, whose in buckets:
            if rate.next > now:
                raise _refusal(whose, quota, rate.next - now)
        amounts, replicas = (1, events, size), self._shares.at(now)
        for rate, unit, _, _ in buckets:
            rate.take(now, replicas, amounts[unit])

    def _buckets(self, allowance: Allowance, name: str, whose: str) -> Iterable[_Bucket]:
        seconds = self._burst_seconds
        for index, (unit, given) in enumerate(zip(UNITS, (allowance.requests, allowance.events, allowance.bytes), strict=True)):
            if given:
                quota = Quota(f"{name}-{unit.removeprefix('content-')}", unit, given * seconds, seconds)
                yield _Bucket(Rate(given, given * seconds), index, quota, whose)


class Addresses:
    """The limit of each client address, which holds before anybody knows who calls."""

    def __init__(self, per_second: int, burst_seconds: int, shares: Shares) -> None:
        self._shares = shares
        self._quota = Quota("address-requests", "requests", per_second * burst_seconds, burst_seconds)
        self._rates: Recent[str, Rate] = Recent(lambda _: Rate(per_second, per_second * burst_seconds), KEPT)

    def admit(self, client: str, now: float) -> None:
        """Take one request of the client with this address.

        Raises:
            Overloaded: it was not taken.
        """
        rate = self._rates.find(subscriber(client))
        if rate.next > now:
            raise _refusal("an address", self._quota, rate.next - now)
        rate.take(now, self._shares.at(now))


class Types:
    """How many event types that were never seen each caller may bring in an hour: the broker keeps each subject in memory."""

    def __init__(self, per_hour: int, shares: Shares) -> None:
        self._shares = shares
        self._quota = Quota("caller-new-event-types", "new-event-types", per_hour, HOUR)
        self._known: Recent[str, bool] = Recent(lambda _: True, TYPES_KEPT)
        self._rates: Recent[str, Rate] = Recent(lambda _: Rate(per_hour / HOUR, per_hour), KEPT)

    def known(self, event_type: str) -> bool:
        return self._known.get(event_type) is not None

    def admit(self, caller: Caller, event_type: str, now: float) -> None:
        """Learn an event type that is not known.

        Raises:
            Overloaded: it was not learnt.
        """
        rate = self._rates.find(caller.name)
        if rate.next > now:
            raise _refusal(caller.name, self._quota, rate.next - now)
        rate.take(now, self._shares.at(now))
        self._known.find(event_type)
