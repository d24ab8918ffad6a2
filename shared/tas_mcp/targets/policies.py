"""How a lane treats its target: when it tries again, when it stops trying, how fast it may go. Data, and what makes it valid."""

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from tas_mcp.durations import Duration
from tas_mcp.errors import Flaw

DEFAULT_SCHEDULE = tuple(map(Duration.parse, ("5s", "5m", "30m", "2h", "5h", "10h")))
DAY = 86_400.0


class Exponential(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The n-th wait is ``base * factor ** (n - 1)``, at most ``max``; ``attempts`` counts the first one too, and none begins
    later than ``budget`` after that."""

    base: Duration = Duration(5)
    factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    max: Duration = Duration(3600)
    attempts: Annotated[int, Meta(ge=1, le=100)] = 10
    budget: Duration = Duration(3 * DAY)


class Retry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to try again: the n-th wait of ``schedule`` after the n-th failed attempt, or by ``exponential`` where that is given;
    each +-20 %. An empty schedule: never."""

    schedule: Annotated[tuple[Duration, ...], Meta(max_length=50)] = DEFAULT_SCHEDULE
    exponential: Exponential | None = None


class BreakerPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the target counts as down: after ``failures`` in a row, or when ``ratio`` of at least ``minimum`` attempts of the last
    30 s failed. It is left alone for ``cooldown``, twice as long after each probe that fails, at most ``max_cooldown``."""

    enabled: bool = True
    failures: Annotated[int, Meta(ge=1)] = 10
    ratio: Annotated[float, Meta(gt=0, le=1)] = 0.5
    minimum: Annotated[int, Meta(ge=1)] = 20
    cooldown: Duration = Duration(30)
    max_cooldown: Duration = Duration(600)


class RateLimit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many requests a second the target gets from all replicas together; ``burst`` at once after a rest (default: what a
    second allows)."""

    requests_per_second: Annotated[float, Meta(gt=0, le=1e6)]
    burst: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class HealthCheck(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The target is asked every ``interval`` (+-20 %) whether it is well."""

    interval: Duration = Duration(30)


def retry_flaws(retry: Retry, pointer: str) -> Iterator[Flaw]:
    if any(not 0 <= wait <= 30 * DAY for wait in retry.schedule):
        yield Flaw(f"{pointer}/schedule", "each wait must be at most 30 days (720h)")
    policy = retry.exponential
    if policy is not None and not 0 < policy.base <= policy.max <= 30 * DAY:
        yield Flaw(f"{pointer}/exponential", "base must be above 0, max at least base and at most 30 days (720h)")


def health_flaws(policy: HealthCheck | None, pointer: str) -> Iterator[Flaw]:
    if policy is not None and not 0.1 <= policy.interval <= DAY:
        yield Flaw(f"{pointer}/interval", "must be at least 100ms and at most 24h")


def breaker_flaws(policy: BreakerPolicy, pointer: str) -> Iterator[Flaw]:
    if not 0 < policy.cooldown <= policy.max_cooldown <= DAY:
        yield Flaw(pointer, "cooldown must be above 0, max_cooldown at least cooldown and at most 24h")
