"""The circuit breaker of one target: whether it is worth trying. Pure: the time (Unix seconds) is passed in.

    closed     trips on failures in a row, or on their share of the last half minute
    open       nothing is sent until ``open_until``
    half_open  one delivery is tried: it closes the breaker, or opens it for twice as long

What counts as a failure is the caller's to say: an answer that says no (4xx, 429) is a sign of life.
"""

from collections import deque
from enum import IntEnum

from tas_mcp.targets import BreakerPolicy

WINDOW_SECONDS = 30.0
SLICE_SECONDS = 3.0
"""The window is forgotten in slices."""


class State(IntEnum):
    """As ``mcp_circuit_state`` shows it."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """``state`` is that of the last call; ``tried`` moves it on as time passes."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.state = State.CLOSED
        self.open_until = 0.0
        self._opened_at = 0.0
        self._opened = 0
        """How often it opened without closing."""
        self._in_a_row = 0
        self._slices: deque[list[float]] = deque()
        self._succeeded = self._failed = 0

    def succeeded(self, now: float) -> None:
        """An attempt got a sign of life. From half open this closes the breaker; what had been sent before it opened and comes
        back only now says nothing about the present."""
        if self.state is State.CLOSED:
            self._in_a_row = 0
            self._count(now, 1, 0)
        elif self.state is State.HALF_OPEN:
            self.close()

    def failed(self, now: float) -> None:
        """An attempt failed for a reason of the target's."""
        if self.state is State.HALF_OPEN:
            self._open(now)
        elif self.state is State.CLOSED:
            self._in_a_row += 1
            self._count(now, 0, 1)
            if self._in_a_row >= self.policy.failures or self._mostly_failed():
                self._open(now)

    def due(self, now: float) -> bool:
        """Whether it is open and the time has come to try again."""
        return self.state is State.OPEN and now >= self.open_until

    def probe(self) -> None:
        """Let one delivery through, now."""
        self.state = State.HALF_OPEN

    def close(self) -> None:
        """Forget what was."""
        self.state, self.open_until = State.CLOSED, 0.0
        self._opened = self._in_a_row = self._succeeded = self._failed = 0
        self._slices.clear()

    def adopt(self, open_until: float, closed_at: float, now: float) -> None:
        """Another replica found the target to be down until then, or up again since it was found to be down here."""
        if open_until > now:
            if self.state is not State.OPEN:
                self.state, self.open_until, self._opened_at = State.OPEN, open_until, now
            self.open_until = max(self.open_until, open_until)
        elif self.state is State.OPEN and closed_at > self._opened_at:
            self.close()

    def _open(self, now: float) -> None:
        seconds = min(self.policy.cooldown * 2**self._opened, self.policy.max_cooldown)
        self._opened = min(self._opened + 1, 30)
        self.state, self.open_until, self._opened_at = State.OPEN, now + seconds, now
        self._in_a_row = self._succeeded = self._failed = 0
        self._slices.clear()

    def _mostly_failed(self) -> bool:
        total = self._succeeded + self._failed
        return total >= self.policy.minimum and self._failed >= self.policy.ratio * total

    def _count(self, now: float, succeeded: int, failed: int) -> None:
        slices = self._slices
        if not slices or now - slices[-1][0] >= SLICE_SECONDS or now < slices[-1][0]:
            while slices and not 0 <= now - slices[0][0] < WINDOW_SECONDS:
                _, old_succeeded, old_failed = slices.popleft()
                self._succeeded -= int(old_succeeded)
                self._failed -= int(old_failed)
            slices.append([now, 0, 0])
        latest = slices[-1]
        latest[1] += succeeded
        latest[2] += failed
        self._succeeded += succeeded
        self._failed += failed
