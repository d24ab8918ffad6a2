"""Which stored events somebody wants to hear of: by patterns of event types, by the conditions of rules, or by both; and since
when. Pure."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from tas_mcp.callers import Caller
from tas_mcp.errors import Flaw, Rejected
from tas_mcp.routing import Condition, ConditionError, View, compile_condition, compile_conditions

MAX_PATTERNS = 100

_Moment = Annotated[datetime, Meta(tz=True)]

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


def within(keep: Keep | None, caller: Caller) -> Keep | None:
    """Of the events that ``keep`` wants those that the caller has to do with."""
    if not caller.restricted:
        return keep
    return lambda view: caller.covers(view.event.event_type, view.event.source) and (keep is None or keep(view))


def moment(since: int | str) -> datetime:
    """The time that an RFC 3339 text or Unix seconds (a text of digits, too) mean.

    Raises:
        Rejected: ``INVALID_REQUEST``.
    """
    try:
        if isinstance(since, int) or since.isdigit():
            return datetime.fromtimestamp(int(since), UTC)
        return msgspec.convert(since, _Moment)
    except (ValueError, OverflowError, OSError):
        flaw = Flaw("/since", f"{str(since)[:64]!r} is neither Unix seconds nor an RFC 3339 time with its offset")
        raise Rejected("INVALID_REQUEST", f"since: {flaw.detail}", [flaw]) from None
