"""How fast something may be done. Pure: the generic cell rate algorithm (ITU-T I.371), a token bucket kept as one time."""

ROUNDING = 1e-8
"""Seconds by which sums of floats may be off, so that a burst of 5 is not one of 4."""


class Rate:
    """``per_second`` on average, ``burst`` at once after a rest, over all replicas: each takes its share."""

    __slots__ = ("_burst", "_interval", "_per_second", "_replicas", "_tolerance", "next")

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self.next = float("-inf")
        """When the next place is free. Whoever does not want to wait looks at it before taking."""
        self._share(1)

    def _share(self, replicas: int) -> None:
        self._replicas = replicas
        self._interval = replicas / self._per_second
        self._tolerance = (max(1.0, self._burst / replicas) - 1.0) * self._interval + ROUNDING

    def take(self, now: float, replicas: int = 1, amount: float = 1.0) -> float:
        """Take the next ``amount`` of places in the line: the seconds to wait for the first. More may be taken than the burst
        has; those who come next wait for it."""
        if replicas != self._replicas:
            self._share(replicas)
        due = now - self._tolerance
        due = max(due, self.next)
        self.next = due + amount * self._interval
        return due - now if due > now else 0.0
