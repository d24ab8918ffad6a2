"""When to try again. Pure: the policy and the randomness are passed in."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast

from tenacity import RetryCallState, wait_chain, wait_exponential, wait_fixed
from tenacity.wait import wait_base

from tas_mcp.targets import Exponential, Retry

JITTER = 0.2


def wait(retry: Retry, failed: int, at_least: float, elapsed: float, random: Callable[[], float]) -> float | None:
    """Seconds until the next attempt after ``failed`` failed ones (1 or more), or None when there is none.

    The planned wait is met within +-20 % (``random`` gives [0, 1)). What the target asked for (``at_least``: Retry-After) is
    obeyed up to twice the planned wait, or a minute if that is longer, so that a target cannot park us for years. ``elapsed`` is
    the time since the first attempt: none begins beyond the policy's ``budget``.
    """
    if failed > most(retry):
        return None
    state = RetryCallState(cast(Any, None), None, (), {})
    state.attempt_number = failed
    planned = _strategy(retry)(state)
    jittered = planned * (1 - JITTER + 2 * JITTER * random())
    seconds = max(jittered, min(at_least, max(2 * planned, 60.0)))
    if retry.exponential is not None and elapsed + seconds > retry.exponential.budget:
        return None
    return seconds


def most(retry: Retry) -> int:
    """How often it is tried again at most."""
    return len(retry.schedule) if retry.exponential is None else retry.exponential.attempts - 1


@lru_cache(maxsize=1024)
def _strategy(retry: Retry) -> wait_base:
    policy = retry.exponential
    if isinstance(policy, Exponential):
        return wait_exponential(multiplier=policy.base, exp_base=policy.factor, max=policy.max)
    return wait_chain(*map(wait_fixed, retry.schedule))


def rfc3339(unix_seconds: float) -> str:
    """A time as the broker's message schedules want it."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
