"""How fast a target may be sent to. Pure: the generic cell rate algorithm (ITU-T I.371), a token bucket kept as one time."""


class Rate:
    """``per_second`` on average, ``burst`` at once after a rest, over all replicas: each takes its share."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._next = float("-inf")

    def take(self, now: float, replicas: int = 1) -> float:
        """Take the next place in the line: the seconds to wait for it."""
        interval = replicas / self._per_second
        tolerance = (max(1.0, self._burst / replicas) - 1.0) * interval
        due = max(self._next, now - tolerance)
        self._next = due + interval
        return max(0.0, due - now)
