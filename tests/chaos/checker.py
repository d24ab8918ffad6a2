"""Judges the history of a run under faults: every event accounted for, nothing invented, nothing bent.

Pure. A run writes down what it was about to send (before sending), what it was answered, what the targets received
(before they answered) and, at the end, the dead letters. ``judge`` compares the four. Targets must have had time to
drain.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

Answer = Literal["ok", "rejected", "unknown"]
"""``ok``: 2xx. ``rejected``: a definite 4xx, never to be delivered. ``unknown``: timeout, reset, 5xx: may be stored."""


class Attempt(NamedTuple):
    """What a producer was about to send, and the targets whose rules match it."""

    payload_hash: str
    targets: frozenset[str]


class Delivery(NamedTuple):
    """What a target received."""

    target: str
    key: str
    payload_hash: str


class Dead(NamedTuple):
    """What was given up for a target."""

    target: str
    key: str


class Counts(NamedTuple):
    """The size of the run, so that "nothing was lost" can be weighed."""

    attempted: int
    ok: int
    rejected: int
    unknown: int
    owed: int
    """Pairs of a stored event and a target that it must reach."""
    deliveries: int
    dead: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. The first five must be empty; the others are allowed, and counted."""

    lost: tuple[Dead, ...]
    """Owed, yet neither delivered nor dead. Owed is what was answered ok, or shows by any trace that it was stored."""
    phantom: tuple[str, ...]
    """Delivered or dead, yet never sent."""
    ghost: tuple[Dead, ...]
    """Delivered or dead, yet rejected."""
    misrouted: tuple[Dead, ...]
    """Delivered or dead for a target that its rules do not name."""
    corrupt: tuple[Delivery, ...]
    """Delivered with another payload than was sent."""
    recovered: tuple[str, ...]
    """Stored although the answer was unknown."""
    duplicates: int
    """Deliveries of an event to a target after the first."""
    counts: Counts

    @property
    def ok(self) -> bool:
        return not any(found for _, found in self._faults())

    def _faults(self) -> Iterable[tuple[str, tuple[object, ...]]]:
        return ((name, getattr(self, name)) for name in ("lost", "phantom", "ghost", "misrouted", "corrupt"))

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {number:,}" for name, number in self.counts._asdict().items())
        faults = [f"  {name} {len(found):,}: {examples(found)}" for name, found in self._faults() if found]
        allowed = f"recovered {len(self.recovered):,}, duplicates {self.duplicates:,}"
        return "\n".join([f"{'OK' if self.ok else 'FAILED'}: {counts}, {allowed}", *faults])


def examples(found: tuple[object, ...], most: int = 5) -> str:
    shown = [item if isinstance(item, str) else "/".join(map(str, item)) for item in found[:most]]  # type: ignore[call-overload]
    return ", ".join([*shown, *(["..."] if len(found) > most else [])])


def judge(
    attempts: Mapping[str, Attempt],
    answers: Mapping[str, Answer],
    deliveries: Iterable[Delivery],
    dead: Iterable[Dead],
) -> Verdict:
    """Compare what was sent and answered with what arrived and what was given up. No answer counts as unknown.

    Raises:
        ValueError: an event was answered that was never attempted: the history itself is broken.
    """
    deliveries, dead = tuple(deliveries), tuple(dead)
    if strangers := answers.keys() - attempts.keys():
        raise ValueError(f"answered, but never attempted: {examples(tuple(sorted(strangers)))}")
    answered = {key: answers.get(key, "unknown") for key in attempts}
    arrived = Counter(Dead(delivery.target, delivery.key) for delivery in deliveries)
    settled = dict.fromkeys(chain(arrived, dead))  # a set that keeps the order
    known = [pair for pair in settled if pair.key in attempts]
    traces = {pair.key for pair in known}
    stored = [key for key in attempts if answered[key] == "ok" or (answered[key] == "unknown" and key in traces)]
    owed = [Dead(target, key) for key in stored for target in sorted(attempts[key].targets)]
    tally = Counter(answered.values())
    return Verdict(
        lost=tuple(pair for pair in owed if pair not in settled),
        phantom=tuple(dict.fromkeys(pair.key for pair in settled if pair.key not in attempts)),
        ghost=tuple(pair for pair in known if answered[pair.key] == "rejected"),
        misrouted=tuple(pair for pair in known if pair.target not in attempts[pair.key].targets),
        corrupt=tuple(d for d in deliveries if d.key in attempts and d.payload_hash != attempts[d.key].payload_hash),
        recovered=tuple(key for key in stored if answered[key] == "unknown"),
        duplicates=arrived.total() - len(arrived),
        counts=Counts(
            attempted=len(attempts),
            ok=tally["ok"],
            rejected=tally["rejected"],
            unknown=tally["unknown"],
            owed=len(owed),
            deliveries=len(deliveries),
            dead=len(set(dead)),
        ),
    )
