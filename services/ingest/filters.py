"""Which stored events somebody wants to hear of: by patterns of event types, by the conditions of rules, or by both. Pure."""

from collections.abc import Callable, Sequence

from tas_mcp.errors import Flaw, Rejected
from tas_mcp.routing import Condition, ConditionError, View, compile_condition, compile_conditions

MAX_PATTERNS = 100

Keep = Callable[[View], bool]
"""Whether an event is wanted. It never raises."""


def compile_filter(event_types: Sequence[str] = (), conditions: Sequence[Condition] = ()) -> Keep | None:
    """The events whose type matches any of the patterns (as ``glob`` does: ``*`` is any run of characters, ``?`` any one) and for
    which all conditions hold. None where nothing is asked: all events.

    Raises:
        Rejected: ``INVALID_RULES`` with a flaw for each mistake; the pointers start at ``/event_types`` or ``/conditions``.
    """
    if len(event_types) > MAX_PATTERNS:
        flaw = Flaw("/event_types", f"at most {MAX_PATTERNS} patterns are allowed, these are {len(event_types)}")
        raise Rejected("INVALID_RULES", f"the filter is not valid: {flaw.detail}", [flaw])
    flaws: list[Flaw] = []
    types = _types(event_types, flaws)
    rest = _all(conditions, flaws)
    if flaws:
        raise Rejected("INVALID_RULES", f"the filter is not valid: {flaws[0].pointer}: {flaws[0].detail}", flaws)
    if types is None or rest is None:
        return types or rest
    return lambda view: types(view) and rest(view)


def _types(patterns: Sequence[str], flaws: list[Flaw]) -> Keep | None:
    tests: list[Keep] = []
    for index, pattern in enumerate(patterns):
        try:
            tests.append(compile_condition(Condition(field="event_type", operator="glob", value=pattern)).holds)
        except ConditionError as error:
            flaws += [Flaw(f"/event_types/{index}", each.detail) for each in error.flaws]
    if not tests:
        return None
    return tests[0] if len(tests) == 1 else lambda view: any(test(view) for test in tests)


def _all(conditions: Sequence[Condition], flaws: list[Flaw]) -> Keep | None:
    if not conditions:
        return None
    try:
        return compile_conditions(list(conditions)).holds
    except ConditionError as error:
        flaws += [Flaw("/conditions" + each.pointer, each.detail) for each in error.flaws]
        return None
