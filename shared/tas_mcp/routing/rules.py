"""The rules of one target: which of them decides that it gets an event.

The rules kept here: a target without rules takes everything; otherwise its enabled rules are tried by descending
priority, ties in their order, and the first whose conditions all hold, and whose sample the event falls into, decides.
Disabled rules are checked as well: what is saved is sound as a whole.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from msgspec import Struct

from tas_mcp.errors import Flaw, Rejected
from tas_mcp.routing.conditions import Condition, ConditionError, Node, Predicate, Why, compile_conditions
from tas_mcp.routing.pins import Pins, pins
from tas_mcp.routing.sampling import share
from tas_mcp.routing.transforms import Reshape, Transform, TransformError, compile_transform
from tas_mcp.routing.view import View

MAX_RULES: Final = 100


class Rule(Struct, forbid_unknown_fields=True, kw_only=True):
    """Takes ``sample`` percent of the events for which all ``conditions`` hold; of all events, when there are none.

    Whether an event is in the sample depends on the ids of the rule and the event alone; one that is not goes on to the next
    rule. ``transform`` is what the target gets instead of the event as it came.
    """

    id: str
    name: str | None = None
    enabled: bool = True
    priority: int = 0
    sample: float = 100
    conditions: list[Condition] | None = None
    transform: Transform | None = None


class Decision(NamedTuple):
    """The rule that decided (``id`` is "" for a target without rules), and what it makes of the event."""

    id: str
    reshape: Reshape | None = None


class _Tried(NamedTuple):
    """A compiled rule: its parts, all of which must hold."""

    decision: Decision
    holds: Predicate
    conditions: Node
    sampled: Predicate | None
    sample: float


EVERYTHING: Final = Decision("")


class RuleSet:
    """Compiled rules, immutable. ``compile_rules`` makes them.

    ``pins`` is what an event must have to match: an index may skip the rest without asking.
    """

    __slots__ = ("_otherwise", "_steps", "_tried", "pins")

    def __init__(self, tried: Sequence[_Tried], otherwise: Decision | None, needed: Pins) -> None:
        """``tried`` are the enabled rules in their order; ``otherwise`` is the decision when none of them matches."""
        self._tried = tuple(tried)
        self._steps = tuple((each.holds, each.decision) for each in tried)
        self._otherwise = otherwise
        self.pins = needed

    def decide(self, view: View) -> Decision | None:
        """The rule by which the target gets the event, or None: it does not. Never raises."""
        for holds, decision in self._steps:
            if holds(view):
                return decision
        return self._otherwise

    def explain(self, view: View) -> Why:
        """The same decision, with its reasons, as JSON values.

        ``{"matched", "rule_id": str | None, "rules": [{"rule_id", "matched", "conditions": [...], "because"?}], "because"?}``:
        the rules in the order in which they are tried, up to the one that decides; ``conditions`` are what ``Node.why`` tells.
        """
        rules: list[Why] = []
        for tried in self._tried:
            told = _explained(tried, view)
            rules.append(told)
            if told["matched"]:
                return {"matched": True, "rule_id": tried.decision.id, "rules": rules}
        if self._otherwise is not None:
            return {"matched": True, "rule_id": self._otherwise.id, "rules": rules, "because": "a target without rules takes all"}
        because = "not matched: none of the rules matches" if rules else "not matched: every rule is disabled"
        return {"matched": False, "rule_id": None, "rules": rules, "because": because}


def _explained(tried: _Tried, view: View) -> Why:
    tree = tried.conditions.why(view)
    told: Why = {"rule_id": tried.decision.id, "matched": tree["matched"], "conditions": tree["all"]}
    if not tree["all"]:
        told["because"] = "a rule without conditions takes all"
    if tried.sampled is not None and tree["matched"]:
        told["matched"] = tried.sampled(view)
        within = "matched: the event is in" if told["matched"] else "not matched: the event is not in"
        told["because"] = f"{within} the sample of {tried.sample:g} %"
    return told


def compile_rules(rules: Sequence[Rule]) -> RuleSet:
    """Compiles the rules of a target; ``Rejected`` (INVALID_RULES) with all flaws, save of what lies beyond a limit."""
    flaws: list[Flaw] = []
    if len(rules) > MAX_RULES:
        flaws.append(Flaw("/rules", f"at most {MAX_RULES} rules are allowed, these are {len(rules)}"))
    flaws += _misnamed(rules[:MAX_RULES])
    tried = [_compile(rule, f"/rules/{i}", flaws.extend) for i, rule in enumerate(rules[:MAX_RULES])]
    if flaws:
        more = f" (and {len(flaws) - 1} more)" if len(flaws) > 1 else ""
        raise Rejected("INVALID_RULES", f"the rules are invalid: {flaws[0].pointer}: {flaws[0].detail}{more}", flaws)
    order = sorted((i for i, rule in enumerate(rules) if rule.enabled), key=lambda i: -rules[i].priority)
    enabled = [each for i in order if (each := tried[i]) is not None]
    if not rules:
        return RuleSet((), EVERYTHING, pins([[]]))
    return RuleSet(enabled, None, pins(rules[i].conditions or [] for i in order))


def _misnamed(rules: Sequence[Rule]) -> Iterator[Flaw]:
    first: dict[str, int] = {}
    for i, rule in enumerate(rules):
        if not rule.id:
            yield Flaw(f"/rules/{i}/id", "the id of a rule must not be empty")
        elif first.setdefault(rule.id, i) != i:
            yield Flaw(f"/rules/{i}/id", f"the id of a rule must be unique; this is that of /rules/{first[rule.id]}")


def _compile(rule: Rule, pointer: str, report: Callable[[list[Flaw]], None]) -> _Tried | None:
    flaws: list[Flaw] = []
    if not 0 <= rule.sample <= 100:
        flaws.append(Flaw(pointer + "/sample", "must be a percentage from 0 to 100"))
    try:
        node = compile_conditions(rule.conditions or [])
    except ConditionError as error:
        flaws += [Flaw(f"{pointer}/conditions{flaw.pointer}", flaw.detail) for flaw in error.flaws]
    reshape = None
    try:
        if rule.transform is not None:
            reshape = compile_transform(rule.transform)
    except TransformError as error:
        flaws += [Flaw(f"{pointer}/transform{flaw.pointer}", flaw.detail) for flaw in error.flaws]
    if flaws:
        report(flaws)
        return None
    sampled = _sampled(rule.id, rule.sample) if rule.sample < 100 else None
    holds = node.holds if sampled is None else _both(node.holds, sampled)
    return _Tried(Decision(rule.id, reshape), holds, node, sampled, rule.sample)


def _sampled(rule_id: str, percent: float) -> Predicate:
    return lambda view: share(rule_id, view.event.event_id) * 100 < percent


def _both(first: Predicate, second: Predicate) -> Predicate:
    return lambda view: first(view) and second(view)
