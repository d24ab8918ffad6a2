"""When to try again. Pure: the schedule and the randomness are passed in."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

JITTER = 0.2


def wait(schedule: Sequence[float], failed: int, at_least: float, random: Callable[[], float]) -> float | None:
    """Seconds until the next attempt after ``failed`` failed ones, or None when the schedule is at its end.

    ``schedule`` is met within +-20 % (``random`` gives [0, 1)). What the target asked for (``at_least``: Retry-After) is
    obeyed up to twice the scheduled wait, or a minute if that is longer, so that a target cannot park us for years.
    """
    if failed > len(schedule):
        return None
    scheduled = schedule[failed - 1]
    jittered = scheduled * (1 - JITTER + 2 * JITTER * random())
    return max(jittered, min(at_least, max(2 * scheduled, 60.0)))


def rfc3339(unix_seconds: float) -> str:
    """A time as the broker's message schedules want it."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
