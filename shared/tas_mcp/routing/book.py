"""The rules of all targets: which of them get an event, and by which rule.

The rule kept here: a book is never changed; a new revision of a target makes a new book, swapped in as a whole. It is
indexed by what the rules demand of ``event_type`` (or, failing that, of ``source``), so an event costs what the targets
that might take it cost.
"""

from collections import defaultdict
from collections.abc import Iterable
from operator import itemgetter
from typing import NamedTuple, Self

from tas_mcp.routing.rules import RuleSet
from tas_mcp.routing.view import View

_target_id = itemgetter(0)


class Route(NamedTuple):
    """A target and its rules, as of one revision of its document."""

    target_id: str
    revision: int
    rules: RuleSet


class Match(NamedTuple):
    """A target that gets the event, and what decided it (``rule_id`` is "" when the target has no rules)."""

    target_id: str
    revision: int
    rule_id: str


_Index = dict[str, list[Route]]


class RuleBook:
    """The routes of all targets, indexed. ``RuleBook.build`` makes one."""

    __slots__ = ("_by_source", "_by_type", "_unbound")

    def __init__(self, by_type: _Index, by_source: _Index, unbound: list[Route]) -> None:
        """Each route stands in one of the three, so that it is asked at most once an event."""
        self._by_type = by_type
        self._by_source = by_source
        self._unbound = unbound

    @classmethod
    def build(cls, entries: Iterable[Route]) -> Self:
        """Indexes the routes, of which there is one per target id."""
        by_type: _Index = defaultdict(list)
        by_source: _Index = defaultdict(list)
        unbound: list[Route] = []
        for route in entries:
            if route.rules.event_types is not None:
                for event_type in route.rules.event_types:
                    by_type[event_type].append(route)
            elif route.rules.sources is not None:
                for source in route.rules.sources:
                    by_source[source].append(route)
            else:
                unbound.append(route)
        return cls(dict(by_type), dict(by_source), unbound)

    def route(self, view: View) -> list[Match]:
        """The targets that get the event, in the order of their ids."""
        event = view.event
        matches: list[Match] = []
        for routes in (self._by_type.get(event.event_type, ()), self._by_source.get(event.source, ()), self._unbound):
            for target_id, revision, rules in routes:
                rule_id = rules.decide(view)
                if rule_id is not None:
                    matches.append(Match(target_id, revision, rule_id))
        matches.sort(key=_target_id)
        return matches
