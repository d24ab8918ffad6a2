"""How fast a target may be sent to. Pure: the generic cell rate algorithm (ITU-T I.371), a token bucket kept as one time."""


class Rate:
    """``per_second`` on average, ``burst`` at once after a rest."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._interval = 1.0 / per_second
        self._tolerance = (burst - 1) * self._interval
        self._next = float("-inf")

    def take(self, now: float) -> float:
        """Take the next place in the line: the seconds to wait for it."""
        due = max(self._next, now - self._tolerance)
        self._next = due + self._interval
        return max(0.0, due - now)
