"""Conditions, the leaves of a rule: one field, one operator, one value; compiled once into a function of the view.

The rules kept here: a condition that makes no sense is refused when it is compiled, with all that is wrong with it; one
that compiled never raises. A missing field or a value of another type makes it false, save for ``ne``, which is the
exact negation of ``eq``. Numbers compare as numbers, whether written 1 or 1.0; true and false are no numbers.

To add an operator, write a function that takes the value and returns the test, and give it a row in ``OPERATORS``.
"""

import operator
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from tas_mcp.errors import Flaw
from tas_mcp.routing.equality import Test, equals, kind
from tas_mcp.routing.fields import FieldSyntaxError, compile_field
from tas_mcp.routing.view import MISSING, View

Predicate = Callable[[View], bool]
Operator = Callable[[Any], Test]

_NUMBERS: Final = frozenset({int, float})
_STRINGS: Final = frozenset({str})


class Condition(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a field must be like; ``negate`` inverts the result."""

    field: str
    operator: str
    value: Any = None
    negate: bool = False


class ConditionError(ValueError):
    """All that is wrong with a condition; the pointers are relative to it (``/field``, ``/operator``, ``/value``)."""

    def __init__(self, flaws: list[Flaw]) -> None:
        super().__init__("; ".join(flaw.detail for flaw in flaws))
        self.flaws = tuple(flaws)


def compile_condition(condition: Condition) -> Predicate:
    """Whether the condition holds for a view, as a function that never raises. ``ConditionError`` if it cannot be.

    The condition's value must not be changed afterwards.
    """
    flaws = []
    try:
        field = compile_field(condition.field)
    except FieldSyntaxError as error:
        flaws.append(Flaw("/field", str(error)))
    if (operate := OPERATORS.get(condition.operator)) is None:
        allowed = ", ".join(OPERATORS)
        flaws.append(Flaw("/operator", f"no such operator {condition.operator[:40]!r}; allowed are {allowed}"))
    else:
        try:
            test = operate(condition.value)
        except ValueError as error:
            flaws.append(Flaw("/value", f"{condition.operator}: {error}"))
    if flaws:
        raise ConditionError(flaws)
    if condition.negate:
        return lambda view: not test(field(view))
    return lambda view: test(field(view))


def _unfit(allowed: str, value: object) -> ValueError:
    return ValueError(f"the value must be {allowed}, not {kind(value)}")


def _ne(value: object) -> Test:
    equal = equals(value)
    return lambda actual: not equal(actual)


def _ordering(compare: Callable[[Any, Any], bool]) -> Operator:
    """A number against a number, or a string against a string (by code points)."""

    def ordering(value: object) -> Test:
        if type(value) not in _NUMBERS | _STRINGS:
            raise _unfit("a number or a string", value)
        types = _STRINGS if type(value) is str else _NUMBERS
        return lambda actual: type(actual) in types and compare(actual, value)

    return ordering


def _in(value: object) -> Test:
    if not isinstance(value, list):
        raise _unfit("a list of what the field may be", value)
    tests = [equals(item) for item in value]
    for types in (_STRINGS, _NUMBERS):
        if types.issuperset(map(type, value)):
            return _one_of(frozenset(value), types)
    return lambda actual: any(test(actual) for test in tests)


def _one_of(members: frozenset[object], types: frozenset[type]) -> Test:
    return lambda actual: type(actual) in types and actual in members


def _contains(value: object) -> Test:
    """A string holds the value as a part, an array as an element."""
    equal = equals(value)
    if isinstance(value, str):
        return lambda actual: (type(actual) is str or type(actual) is list) and value in actual
    return lambda actual: type(actual) is list and any(map(equal, actual))


def _starts_with(value: object) -> Test:
    if not isinstance(value, str):
        raise _unfit("a string", value)
    return lambda actual: type(actual) is str and actual.startswith(value)


def _exists(value: object) -> Test:
    """A JSON null is there, too."""
    if value is None or value is True:
        return lambda actual: actual is not MISSING
    if value is False:
        return lambda actual: actual is MISSING
    raise _unfit("true (or left out) or false", value)


OPERATORS: Final[dict[str, Operator]] = {
    "eq": equals,
    "ne": _ne,
    "gt": _ordering(operator.gt),
    "gte": _ordering(operator.ge),
    "lt": _ordering(operator.lt),
    "lte": _ordering(operator.le),
    "in": _in,
    "contains": _contains,
    "starts_with": _starts_with,
    "exists": _exists,
}
