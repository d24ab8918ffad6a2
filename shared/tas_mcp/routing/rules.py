"""The rules of one target: which of them decides that it gets an event.

The rules kept here: a target without rules takes everything; otherwise its enabled rules are tried by descending
priority, ties in their order, and the first whose conditions all hold decides. Disabled rules are checked as well: what
is saved is sound as a whole.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from tas_mcp.errors import Flaw, Rejected
from tas_mcp.routing.conditions import Condition, ConditionError, Predicate, compile_condition
from tas_mcp.routing.view import View

MAX_RULES: Final = 100
MAX_CONDITIONS: Final = 100
EVERYTHING: Final = ""  # the rule id of a target without rules


class Rule(Struct, forbid_unknown_fields=True, kw_only=True):
    """Takes the events for which all ``conditions`` hold; all events, when there are none."""

    id: str
    name: str | None = None
    enabled: bool = True
    priority: int = 0
    conditions: list[Condition] | None = None


class RuleSet:
    """Compiled rules, immutable. ``compile_rules`` makes them.

    ``event_types`` and ``sources`` are the only values with which an event can match, or None where any might: an index
    may skip the rest without asking.
    """

    __slots__ = ("_otherwise", "_tried", "event_types", "sources")

    def __init__(self, tried: Sequence[tuple[Rule, Sequence[Predicate]]], otherwise: str | None) -> None:
        """``tried`` are the enabled rules in their order; ``otherwise`` is the decision when none of them matches."""
        rules = [rule for rule, _ in tried]
        self._tried = tuple((rule.id, tuple(predicates)) for rule, predicates in tried)
        self._otherwise = otherwise
        self.event_types = None if otherwise is not None else _only("event_type", rules)
        self.sources = None if otherwise is not None else _only("source", rules)

    def decide(self, view: View) -> str | None:
        """The id of the rule by which the target gets the event ("" when it has no rules), or None: it does not."""
        for rule_id, predicates in self._tried:
            for holds in predicates:
                if not holds(view):
                    break
            else:
                return rule_id
        return self._otherwise


def compile_rules(rules: Sequence[Rule]) -> RuleSet:
    """Compiles the rules of a target; ``Rejected`` (INVALID_RULES) with all flaws, save of what lies beyond a limit."""
    flaws: list[Flaw] = []
    if len(rules) > MAX_RULES:
        flaws.append(Flaw("/rules", f"at most {MAX_RULES} rules are allowed, these are {len(rules)}"))
    flaws += _misnamed(rules[:MAX_RULES])
    compiled = [(rule, _compile(rule, f"/rules/{i}", flaws.append)) for i, rule in enumerate(rules[:MAX_RULES])]
    if flaws:
        more = f" (and {len(flaws) - 1} more)" if len(flaws) > 1 else ""
        raise Rejected("INVALID_RULES", f"the rules are invalid: {flaws[0].pointer}: {flaws[0].detail}{more}", flaws)
    enabled = sorted((entry for entry in compiled if entry[0].enabled), key=lambda entry: -entry[0].priority)
    return RuleSet(enabled, None if rules else EVERYTHING)


def _misnamed(rules: Sequence[Rule]) -> Iterator[Flaw]:
    first: dict[str, int] = {}
    for i, rule in enumerate(rules):
        if not rule.id:
            yield Flaw(f"/rules/{i}/id", "the id of a rule must not be empty")
        elif first.setdefault(rule.id, i) != i:
            yield Flaw(f"/rules/{i}/id", f"the id of a rule must be unique; this is that of /rules/{first[rule.id]}")


def _compile(rule: Rule, pointer: str, report: Callable[[Flaw], None]) -> list[Predicate]:
    conditions = rule.conditions or []
    pointer += "/conditions"
    if len(conditions) > MAX_CONDITIONS:
        report(Flaw(pointer, f"at most {MAX_CONDITIONS} conditions are allowed, these are {len(conditions)}"))
    predicates = []
    for i, condition in enumerate(conditions[:MAX_CONDITIONS]):
        try:
            predicates.append(compile_condition(condition))
        except ConditionError as error:
            for flaw in error.flaws:
                report(Flaw(f"{pointer}/{i}{flaw.pointer}", flaw.detail))
    return predicates


def _only(field: str, rules: Iterable[Rule]) -> frozenset[str] | None:
    """The strings that ``field`` must be one of for any of the rules to match, or None when one rule does not say."""
    union: set[str] = set()
    for rule in rules:
        named = [frozenset(_named(condition)) for condition in rule.conditions or [] if _names(condition, field)]
        if not named:
            return None
        union |= named[0].intersection(*named[1:])
    return frozenset(union)


def _names(condition: Condition, field: str) -> bool:
    """Whether the condition limits the field to certain strings."""
    if condition.field != field or condition.operator not in {"eq", "in"} or condition.negate:
        return False
    return all(isinstance(value, str) for value in _named(condition))


def _named(condition: Condition) -> list[str]:
    return condition.value if condition.operator == "in" else [condition.value]
