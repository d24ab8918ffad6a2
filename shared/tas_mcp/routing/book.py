"""The rules of all targets: which of them get an event, and by which rule.

The rules kept here: a book is never changed; a new revision of a target makes a new book, swapped in as a whole. It is
indexed by what the rules demand of ``event_type`` and ``source`` (``pins``), so an event costs what the targets that might
take it cost. Of the matching targets of one split group exactly one takes the event (none, when their weights are all 0).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple, Self

import msgspec

from tas_mcp.messages import Event
from tas_mcp.routing.conditions import Why
from tas_mcp.routing.fields import Field, compile_field
from tas_mcp.routing.pins import FIELDS
from tas_mcp.routing.rules import RuleSet
from tas_mcp.routing.sampling import claim
from tas_mcp.routing.transforms import Reshape
from tas_mcp.routing.view import MISSING, View

_target_id = itemgetter(0)
_encode = msgspec.json.Encoder().encode


class Split(NamedTuple):
    """A target's part in a split group: its weight, and the field whose value decides (``event_id`` where it is missing)."""

    group: str
    weight: int = 1
    key: Field = compile_field("event_id")


class Route(NamedTuple):
    """A target and its rules, as of one revision of its document."""

    target_id: str
    revision: int
    rules: RuleSet
    split: Split | None = None


class Match(NamedTuple):
    """A target that gets the event, and what decided it (``rule_id`` is "" when the target has no rules)."""

    target_id: str
    revision: int
    rule_id: str
    reshape: Reshape | None = None


class Explained(NamedTuple):
    """What became of an event at one target, and why: ``RuleSet.explain``, and ``split`` when the target is in a group."""

    target_id: str
    revision: int
    matched: bool
    rule_id: str | None
    why: Why
    reshape: Reshape | None = None


class RuleBook:
    """The routes of all targets, indexed. ``RuleBook.build`` makes one."""

    __slots__ = ("_exact", "_prefixes", "_routes", "_unbound")

    def __init__(self, routes: list[Route]) -> None:
        """Each of the routes stands in one index, and there once for an event, so that it is asked at most once."""
        self._routes = routes
        self._exact: dict[str, dict[str, list[Route]]] = {field: defaultdict(list) for field in FIELDS}
        self._prefixes: dict[str, dict[int, dict[str, list[Route]]]] = {field: defaultdict(dict) for field in FIELDS}
        self._unbound: list[Route] = []
        for route in routes:
            self._file(route)

    @classmethod
    def build(cls, entries: Iterable[Route]) -> Self:
        """Indexes the routes, of which there is one per target id."""
        return cls(sorted(entries, key=_target_id))

    def _file(self, route: Route) -> None:
        pins = route.rules.pins
        for field in FIELDS:
            if (strings := pins.exact[field]) is not None:
                for text in strings:
                    self._exact[field][text].append(route)
                return
        for field in FIELDS:
            if (strings := pins.prefixes[field]) is not None:
                for text in strings:
                    self._prefixes[field][len(text)].setdefault(text, []).append(route)
                return
        self._unbound.append(route)

    def route(self, view: View) -> list[Match]:
        """The targets that get the event, in the order of their ids."""
        matches: list[Match] = []
        contenders: list[tuple[Split, Match]] = []
        for routes in self._candidates(view.event):
            for target_id, revision, rules, split in routes:
                decision = rules.decide(view)
                if decision is not None:
                    match = Match(target_id, revision, decision.id, decision.reshape)
                    if split is None:
                        matches.append(match)
                    else:
                        contenders.append((split, match))
        if contenders:
            taken = _winners(contenders, view)
            matches += [match for split, match in contenders if taken.get(split.group) == match.target_id]
        matches.sort(key=_target_id)
        return matches

    def explain(self, view: View) -> list[Explained]:
        """Why each of the targets gets the event or does not, in the order of their ids: also those that ``route`` skips."""
        told = [(route, route.rules.decide(view), route.rules.explain(view)) for route in self._routes]
        taken = _winners(
            [
                (route.split, Match(route.target_id, route.revision, decision.id))
                for route, decision, _ in told
                if route.split is not None and decision is not None
            ],
            view,
        )
        explained = []
        for route, decision, reasons in told:
            matched, why = decision is not None, reasons
            if route.split is not None and matched:
                winner = taken.get(route.split.group)
                matched = winner == route.target_id
                why = _with_split(reasons, route.split.group, winner, matched)
            rule_id, reshape = (decision.id, decision.reshape) if decision is not None else (None, None)
            explained.append(Explained(route.target_id, route.revision, matched, rule_id, why, reshape))
        return explained

    def _candidates(self, event: Event) -> Iterator[Iterable[Route]]:
        """The routes that may match."""
        for field, text in (("event_type", event.event_type), ("source", event.source)):
            yield self._exact[field].get(text, ())
            for length, routes in self._prefixes[field].items():
                yield routes.get(text[:length], ())
        yield self._unbound


def _winners(contenders: Iterable[tuple[Split, Match]], view: View) -> dict[str, str]:
    """For each group the target that takes the event: the one with the largest claim."""
    best: dict[str, tuple[float, str]] = {}
    for split, match in contenders:
        claimed = claim(match.target_id, _key(split.key(view), view.event), split.weight)
        if claimed > 0.0:
            best[split.group] = max(best.get(split.group, (0.0, "")), (claimed, match.target_id))
    return {group: target_id for group, (_, target_id) in best.items()}


def _key(value: object, event: Event) -> str:
    if value is MISSING:
        return event.event_id
    return value if isinstance(value, str) else _encode(value).decode()


def _with_split(why: Why, group: str, winner: str | None, matched: bool) -> Why:
    if winner is None:
        because = f"not matched: every matching target of the split group {group} has the weight 0"
    elif matched:
        because = f"matched: it takes this event for the split group {group}"
    else:
        because = f"not matched: {winner} takes this event for the split group {group}"
    return {**why, "matched": matched, "because": because}
