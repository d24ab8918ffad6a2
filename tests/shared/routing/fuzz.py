"""Random documents and events, sound and not: ``python -m tests.shared.routing.fuzz [pairs] [seed]`` (``make fuzz``).

A document is either refused with flaws, or routes and explains every event, and both say the same. Nothing else escapes.
"""

import json
import random
import sys
from typing import Any

import msgspec
from msgspec import Raw

from tas_mcp.errors import Rejected
from tas_mcp.messages import Event
from tas_mcp.routing import OPERATORS, Rule, RuleBook, RuleSet, View, compile_rules
from tas_mcp.routing.book import Route
from tests.shared.routing.reference import EACH, EXPRESSIONS, FIELDS

EVENTS_EACH = 20
TEXTS = [
    *["", "a", "ab", "user.created", "auth", "ü", "\0", "{}", "x" * 600],
    *["(", "a*", "^a", "[", "1 +", "event.data", "event.data.a.all(x, x)"],
    *["2023-12-19T15:53:54Z", "2023-13-01T00:00:00Z", "0001-01-01T00:00:00+23:59"],
    *["data.", "data[*]", "data[", "metadata."],
    *FIELDS,
    *EACH,
    *EXPRESSIONS,
]
NUMBERS = [0, 1, -1, 100, 1.5, -0.0, 1e308, 2**53, 2**64, 10**30, 1703001234]
NAMES = ["a", "b", "x.y", "k", "type", "source"]
FORMS = ["leaf", "leaf", "leaf", "leaf", "cel", "all", "any", "not", "exact", "prefix", "suffix", "junk"]


class Fuzz:
    """Makes documents and events from one source of chance."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def value(self, depth: int = 3) -> Any:
        kind = self._chance.randrange(8 if depth else 5)
        if kind < 2:
            return self._chance.choice(TEXTS)
        if kind < 4:
            return self._chance.choice(NUMBERS)
        if kind == 4:
            return self._chance.choice([None, True, False])
        count = self._chance.randrange(4)
        if kind < 6:
            return [self.value(depth - 1) for _ in range(count)]
        return {self._chance.choice(NAMES): self.value(depth - 1) for _ in range(count)}

    def condition(self, depth: int = 3) -> Any:
        form = self._chance.choice(FORMS if depth else ["leaf"])
        if form in ("all", "any"):
            return {form: [self.condition(depth - 1) for _ in range(self._chance.randrange(4))]}
        if form == "not":
            return {"not": self.condition(depth - 1)}
        if form == "cel":
            return {"operator": "cel", "value": self._chance.choice([*EXPRESSIONS, *TEXTS])}
        if form in ("exact", "prefix", "suffix"):
            return {form: {self._chance.choice(NAMES): self._chance.choice(TEXTS)}}
        if form == "junk":
            return self.value()
        leaf = {
            "field": self._chance.choice([*FIELDS, *EACH]),
            "operator": self._chance.choice([*OPERATORS]),
            "value": self.value(2),
        }
        if self._chance.randrange(4) == 0:
            leaf["negate"] = True
        if self._chance.randrange(50) == 0:
            leaf[self._chance.choice(["field", "operator", "any"])] = self.value()
        return leaf

    def rules(self) -> Any:
        return [
            {
                "id": self._chance.choice(["a", "b", "c", ""]) if self._chance.randrange(20) == 0 else f"r{i}",
                "sample": self._chance.choice([100, 100, 50, 0]),
                "conditions": [self.condition() for _ in range(self._chance.randrange(3))],
            }
            for i in range(self._chance.randrange(3))
        ]

    def event(self) -> Event:
        timestamps: list[int | str] = [0, 1703001234, "2023-12-19T15:53:54Z", "soon"]
        data = json.dumps(self.value())
        if self._chance.randrange(4) == 0:
            data = json.dumps(data)
        elif self._chance.randrange(20) == 0:
            data = self._chance.choice(["1e999", "nan", "[" * 5000, '"\\ud800"', ""])
        return Event(
            event_id=str(self._chance.random()), event_type=self._chance.choice(TEXTS),
            source=self._chance.choice(TEXTS), accepted_at=1,
            timestamp=self._chance.choice(timestamps), data=Raw(data.encode()),
            metadata={self._chance.choice(NAMES): self._chance.choice(TEXTS)},
        )  # fmt: skip

    def document(self) -> bool:
        """One document and, unless it is refused, its events."""
        rules = _compiled(self.rules())
        if rules is None:
            return False
        book = RuleBook.build([Route("t", 1, rules)])
        for _ in range(EVENTS_EACH):
            view = View(self.event())
            matched = bool(book.route(view))
            [told] = book.explain(view)
            assert told.matched is told.why["matched"] is matched, told
            msgspec.json.encode(told.why)
        return True


def _compiled(document: Any) -> RuleSet | None:
    try:
        return compile_rules(msgspec.convert(document, list[Rule]))
    except (Rejected, msgspec.ValidationError):
        return None


def main(pairs: int, seed: int) -> None:
    fuzz, step = Fuzz(seed), max(pairs // 20, 1)
    done = refused = 0
    while done < pairs:
        if not fuzz.document():
            refused += 1
            continue
        done += EVENTS_EACH
        if done % step < EVENTS_EACH:
            print(f"{done:,} of {pairs:,} pairs", flush=True)
    print(f"{done:,} pairs of seed {seed}: nothing escaped; {refused:,} other documents were refused")


if __name__ == "__main__":
    arguments = [int(text) for text in sys.argv[1:]]
    main(*(arguments + [1_000_000, 1][len(arguments) :]))
