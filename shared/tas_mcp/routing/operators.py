"""Operators: what a condition asks of one value, compiled to a ``Check``.

The rules kept here: a value that makes no sense to an operator is refused when it is compiled (``ValueError``); testing never
raises. A value of another type than the operator takes fails the test, and ``objection`` says why. ``ne`` and ``not_...`` are
their twin, inverted: nothing else tells them apart.

To add an operator, write a function that takes the value and returns the check, and give it a row in ``OPERATORS``.
"""

import operator
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from tas_mcp.routing.equality import Test, equals, kind
from tas_mcp.routing.patterns import Pattern, glob, regex
from tas_mcp.routing.times import EXAMPLE, seconds
from tas_mcp.routing.view import MISSING

_NUMBERS: Final = frozenset({int, float})
_STRINGS: Final = frozenset({str})

_encode = msgspec.json.Encoder().encode

Objection = Callable[[object], str | None]


def no_objection(_: object) -> None:
    """Takes values of every type."""


class Check(NamedTuple):
    """A compiled operator and its value.

    ``phrase`` is what holds of a value that passes, as in "greater than 100". ``objection`` is why a value (never ``MISSING``)
    cannot pass whatever it is, as in "is a string, not a number". ``inverted``: the condition holds when the test fails.
    """

    test: Test
    phrase: str
    objection: Objection = no_objection
    inverted: bool = False


Operator = Callable[[Any], Check]


def shown(value: object, length: int = 80) -> str:
    """A value for a sentence: its JSON text, not too long."""
    text = _encode(value).decode()
    return text if len(text) <= length else text[: length - 3] + "..."


def _unfit(allowed: str, value: object) -> ValueError:
    return ValueError(f"the value must be {allowed}, not {kind(value)}")


def _takes(kinds: Iterable[str]) -> Objection:
    """The objection to values of other kinds than these."""
    wanted = list(dict.fromkeys(kinds))
    text = " or ".join(wanted)
    return lambda actual: None if kind(actual) in wanted else f"is {kind(actual)}, not {text}"


def _eq(value: object) -> Check:
    return Check(equals(value), f"equal to {shown(value)}", _takes([kind(value)]))


def _ordering(compare: Callable[[Any, Any], bool], phrase: str) -> Operator:
    """A number against a number, or a string against a string (by code points)."""

    def ordering(value: object) -> Check:
        if type(value) not in _NUMBERS | _STRINGS:
            raise _unfit("a number or a string", value)
        types = _STRINGS if type(value) is str else _NUMBERS

        def test(actual: object) -> bool:
            return type(actual) in types and compare(actual, value)

        return Check(test, f"{phrase} {shown(value)}", _takes([kind(value)]))

    return ordering


def _in(value: object) -> Check:
    if not isinstance(value, list):
        raise _unfit("a list of what the field may be", value)
    tests = [equals(item) for item in value]
    return Check(_one_of(value, tests), f"one of {shown(value)}", _takes(map(kind, value)) if value else no_objection)


def _one_of(items: list[Any], tests: list[Test]) -> Test:
    for types in (_STRINGS, _NUMBERS):
        if types.issuperset(map(type, items)):
            members = frozenset(items)
            return lambda actual: type(actual) in types and actual in members
    return lambda actual: any(test(actual) for test in tests)


def _contains(value: object) -> Check:
    """A string holds the value as a part, an array as an element."""
    equal = equals(value)
    phrase = f"containing {shown(value)}"
    if isinstance(value, str):

        def part(actual: Any) -> bool:
            return (type(actual) is str or type(actual) is list) and value in actual

        return Check(part, phrase, _takes(["a string", "an array"]))
    return Check(lambda actual: type(actual) is list and any(map(equal, actual)), phrase, _takes(["an array"]))


def _starts_with(value: object) -> Check:
    if not isinstance(value, str):
        raise _unfit("a string", value)
    return Check(lambda actual: type(actual) is str and actual.startswith(value), f"starting with {shown(value)}", _text)


def _ends_with(value: object) -> Check:
    if not isinstance(value, str):
        raise _unfit("a string", value)
    return Check(lambda actual: type(actual) is str and actual.endswith(value), f"ending with {shown(value)}", _text)


def _pattern(compile_pattern: Callable[[str], Pattern]) -> Operator:
    def pattern(value: object) -> Check:
        if not isinstance(value, str):
            raise _unfit("a string", value)
        compiled = compile_pattern(value)
        return Check(compiled.test, f"matching {shown(value)}", compiled.objection)

    return pattern


def _time(compare: Callable[[float, float], bool], phrase: str) -> Operator:
    """An instant against an instant: RFC 3339 texts and Unix seconds alike."""

    def time(value: object) -> Check:
        bound = seconds(value)
        if bound is None:
            raise _unfit(f"a time (RFC 3339 with its offset, as {EXAMPLE}, or Unix seconds)", value)

        def test(actual: object) -> bool:
            instant = seconds(actual)
            return instant is not None and compare(instant, bound)

        return Check(test, f"{phrase} {shown(value)}", _no_time)

    return time


def _no_time(actual: object) -> str | None:
    if seconds(actual) is not None:
        return None
    return f"is {shown(actual)}, not a time" if isinstance(actual, str) else f"is {kind(actual)}, not a time"


def _exists(value: object) -> Check:
    """A JSON null is there, too."""
    if value is not None and not isinstance(value, bool):
        raise _unfit("true (or left out) or false", value)
    return Check(lambda actual: actual is not MISSING, "present", inverted=value is False)


def _not(operate: Operator) -> Operator:
    return lambda value: operate(value)._replace(inverted=True)


_text = _takes(["a string"])

OPERATORS: Final[dict[str, Operator]] = {
    "eq": _eq,
    "ne": _not(_eq),
    "gt": _ordering(operator.gt, "greater than"),
    "gte": _ordering(operator.ge, "at least"),
    "lt": _ordering(operator.lt, "less than"),
    "lte": _ordering(operator.le, "at most"),
    "in": _in,
    "not_in": _not(_in),
    "contains": _contains,
    "not_contains": _not(_contains),
    "starts_with": _starts_with,
    "ends_with": _ends_with,
    "regex": _pattern(regex),
    "glob": _pattern(glob),
    "before": _time(operator.lt, "before"),
    "after": _time(operator.gt, "after"),
    "exists": _exists,
}
