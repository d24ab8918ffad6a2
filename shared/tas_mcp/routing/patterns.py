"""Regexes and globs, by RE2: no pattern takes more than time in proportion to its program and the text.

The rule kept here: what a test may cost is bounded. A text for which program and length together exceed ``WORK`` is not
looked at; the ``objection`` says so.
"""

from collections.abc import Callable
from typing import Any, Final

import re2

from tas_mcp.routing.equality import kind

MAX_LENGTH: Final = 512
"""Characters of a pattern."""
MAX_MEMORY: Final = 1 << 20
"""Bytes of a compiled pattern, its cache included; RE2 refuses a program that takes more than its part of it."""
WORK: Final = 4_000_000
"""Instructions of the program times bytes of the text. RE2's slowest engine does some 150 of them in a microsecond."""

Matches = Callable[[str], bool]


class Pattern:
    """A compiled pattern: ``test`` whether a value is a text that it matches; ``objection`` to those that it does not take."""

    def __init__(self, expression: str) -> None:
        """``ValueError`` if RE2 does not take the expression."""
        options = re2.Options()
        options.log_errors = False
        options.never_capture = True
        options.max_mem = MAX_MEMORY
        try:
            compiled = re2.compile(expression, options)
        except re2.error as error:
            raise ValueError(_explained(error, expression)) from None
        program = max(compiled.programsize, compiled.reverseprogramsize)
        self._search = compiled.search
        self.limit = WORK // max(program, 1)

    def test(self, actual: Any) -> bool:
        return type(actual) is str and _size(actual) <= self.limit and self._search(actual) is not None

    def objection(self, actual: Any) -> str | None:
        if type(actual) is not str:
            return f"is {kind(actual)}, not a string"
        if _size(actual) <= self.limit:
            return None
        return f"is a string of {_size(actual):,} bytes; this pattern takes {self.limit:,} at most"


def regex(expression: str) -> Pattern:
    """Matches anywhere in a text, unless it says ``^`` or ``$``; ``ValueError`` with the position of what is wrong."""
    if len(expression) > MAX_LENGTH:
        raise ValueError(f"at most {MAX_LENGTH} characters are allowed, these are {len(expression)}")
    return Pattern(expression)


def glob(text: str) -> Pattern:
    """Matches whole texts: ``*`` is any run of characters, ``?`` any one; a backslash makes the next one stand for itself."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"at most {MAX_LENGTH} characters are allowed, these are {len(text)}")
    parts: list[str] = []
    characters = iter(text)
    for character in characters:
        if character == "\\":
            character = next(characters, "\\")  # noqa: PLW2901 - the escaped one takes its place
            parts.append(re2.escape(character))
        else:
            parts.append({"*": ".*", "?": "."}.get(character) or re2.escape(character))
    return Pattern(f"(?s)\\A{''.join(parts)}\\z")


def _size(text: str) -> int:
    """The bytes of a text, or more: RE2 reads UTF-8."""
    return len(text) if text.isascii() else 4 * len(text)


def _explained(error: re2.error, expression: str) -> str:
    """RE2 quotes the part that it does not take; where that stands is the position."""
    told = error.args[0]
    detail = told.decode(errors="replace") if isinstance(told, bytes) else str(told)
    _, _, quoted = detail.partition(": ")
    if detail.startswith("missing )"):
        return f"position {len(expression)}: missing )"
    position = expression.find(quoted) if quoted else -1
    return detail if position < 0 else f"position {position}: {detail}"
