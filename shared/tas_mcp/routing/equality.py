"""When two JSON values are equal: like Python, but true is not 1 and false is not 0, however deep they lie.

The rule kept here: what to compare with is checked and prepared once; comparing never raises.
"""

from collections.abc import Callable
from functools import partial
from operator import eq
from typing import Any, Final

MAX_DEPTH: Final = 32

Test = Callable[[object], bool]


def equals(expected: object) -> Test:
    """Tests if a value (or ``MISSING``) equals ``expected``; ``ValueError`` unless that is JSON, and not too deep."""
    _refuse_foreign(expected, MAX_DEPTH)
    if expected is None or isinstance(expected, bool):
        return lambda actual: actual is expected
    if isinstance(expected, str):
        return partial(eq, expected)
    if isinstance(expected, int | float):
        return lambda actual: actual == expected and type(actual) is not bool
    return lambda actual: actual == expected and _same_types(actual, expected)


def kind(value: object) -> str:
    """What JSON calls it, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {int: "a number", float: "a number", str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def _same_types(actual: Any, expected: Any) -> bool:
    """Whether values that Python finds equal have their booleans in the same places."""
    if isinstance(expected, dict):
        return all(_same_types(actual[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return all(map(_same_types, actual, expected))
    return (type(actual) is bool) == (type(expected) is bool)


def _refuse_foreign(value: object, depth: int) -> None:
    """Bounds the depth as well: comparing recurses, and must not reach the interpreter's limit."""
    if isinstance(value, list | dict):
        if depth == 0:
            raise ValueError(f"the value is nested deeper than the {MAX_DEPTH} levels allowed")
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_foreign(item, depth - 1)
    elif value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"the value must be a JSON value, not {kind(value)}")
