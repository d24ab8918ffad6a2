"""How many deliveries a target gets at once: few at first, more while it keeps up, fewer when it fails or slows down. Pure.

Additive increase, multiplicative decrease (Chiu and Jain 1989), with a slow start: the limit doubles in each round until the
first trouble, then grows by one a round. *Slow* is measured against the target's own best time, which is found anew every minute
with few under way, as a queue that we made ourselves would hide it (BBR does the same: ProbeRTT).
"""

START = 4
SLOW_FACTOR = 2.0
SLOW_SECONDS = 0.1
"""A target is slow when an attempt takes ``SLOW_FACTOR`` times its best, and this much more: a busy process adds some itself."""
BACK_OFF = 0.7
SMOOTHING = 0.1
MEASURE_SECONDS = 60.0


class Concurrency:
    """``limit`` is the number of deliveries that may be under way, 1 to ``most``. All times are monotonic seconds."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = min(START, most)
        self._exact = float(self.limit)
        self._slow_start = True
        self._best = 0.0
        self._usual = 0.0
        self._backed_off_at = float("-inf")
        self._measured_at = 0.0
        self._kept: float | None = None
        """While the best time is measured: the limit to go back to."""

    def resize(self, most: int) -> None:
        """The target's own limit was changed."""
        self.most = most
        least = min(START, most) if self._slow_start else 1
        self._set(min(max(self._exact, float(least)), float(most)))

    def succeeded(self, now: float, seconds: float, under_way: int) -> None:
        """An attempt took ``seconds``, with ``under_way`` at once (itself included)."""
        self._usual += SMOOTHING * (seconds - self._usual) if self._usual else seconds
        if seconds < self._best or not self._best:
            self._best = seconds
        self._measured_at = self._measured_at or now
        if now - self._measured_at > MEASURE_SECONDS:
            self._measure(now)
        elif self._kept is not None:
            if now - self._measured_at > 2 * self._usual:
                self._set(min(self._kept, float(self.most)))
                self._kept = None
        elif self._usual > SLOW_FACTOR * self._best and self._usual > self._best + SLOW_SECONDS:
            self._back_off(now)
        elif self.limit < self.most and 2 * under_way > self.limit:  # what is not used is no proof that more would go well
            self._set(min(self.most, self._exact + (1.0 if self._slow_start else 1.0 / self._exact)))

    def failed(self, now: float) -> None:
        """An attempt failed for want of capacity: no answer, 429, 5xx."""
        self._back_off(now)

    def _measure(self, now: float) -> None:
        self._measured_at = now
        self._best = 0.0
        self._kept = self._exact
        self._set(min(self._exact, float(START)))

    def _back_off(self, now: float) -> None:
        """Once a round: what was sent before the last step down says nothing about the limit since."""
        self._slow_start = False
        if now - self._backed_off_at >= max(self._usual, SLOW_SECONDS):
            self._backed_off_at = now
            self._kept = None
            self._set(max(1.0, self._exact * BACK_OFF))

    def _set(self, exact: float) -> None:
        self._exact = exact
        self.limit = int(exact)
