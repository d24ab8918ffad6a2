"""Pins: what an event must have for a rule to hold, as far as an index can use it.

The rule kept here: a pin may be too wide, never too narrow: an event outside of it matches none of the conditions.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from tas_mcp.routing.conditions import Condition, leaves

FIELDS: Final = ("event_type", "source")
Strings = frozenset[str]


class Pins(NamedTuple):
    """The only strings that the field can be (``exact``) or start with (``prefixes``); None where that is not limited."""

    exact: dict[str, Strings | None]
    prefixes: dict[str, Strings | None]


def pins(rules: Iterable[list[Condition]]) -> Pins:
    """The pins of rules of which any may match, each with conditions of which all must hold."""
    found = list(rules)

    def union(operators: dict[str, Callable[[Condition], Strings | None]], field: str) -> Strings | None:
        return _union(_of_all(conditions, field, operators) for conditions in found)

    return Pins(
        {field: union(_EXACT, field) for field in FIELDS},
        {field: _shortest(union(_PREFIX, field)) for field in FIELDS},
    )


def _of_all(conditions: list[Condition], field: str, operators: "_Operators") -> Strings | None:
    named = [strings for each in conditions if (strings := _of(each, field, operators)) is not None]
    if not named:
        return None
    return named[0].intersection(*named[1:]) if operators is _EXACT else min(named, key=len)


def _of(condition: Condition, field: str, operators: "_Operators") -> Strings | None:
    if condition.all is not None:
        return _of_all(condition.all, field, operators)
    if condition.any is not None:
        return _union(_of(each, field, operators) for each in condition.any)
    if dialect := leaves(condition):
        return _of_all(dialect, field, operators)
    read = operators.get(condition.operator or "")
    return read(condition) if read is not None and condition.field == field and not condition.negate else None


def _union(parts: Iterable[Strings | None]) -> Strings | None:
    union: set[str] = set()
    for part in parts:
        if part is None:
            return None
        union |= part
    return frozenset(union)


def _shortest(prefixes: Strings | None) -> Strings | None:
    """The prefixes without those that another covers, so that a text starts with one at most."""
    if prefixes is None:
        return None
    kept: list[str] = []
    for prefix in sorted(prefixes):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return frozenset(kept)


def _value(condition: Condition) -> Strings | None:
    return frozenset([condition.value]) if isinstance(condition.value, str) else None


def _values(condition: Condition) -> Strings | None:
    values = condition.value
    return frozenset(values) if all(isinstance(value, str) for value in values) else None


_Operators = dict[str, Callable[[Condition], Strings | None]]
_EXACT: Final[_Operators] = {"eq": _value, "in": _values}
_PREFIX: Final[_Operators] = {"starts_with": _value}
