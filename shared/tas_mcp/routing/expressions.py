"""Expressions in CEL over ``event``: its attributes, ``metadata``, ``cloudevent`` and, decoded, ``data``.

The rules kept here: an expression that cannot be is refused when it is compiled, with the position; evaluating never raises.
What fails, or is no boolean, does not hold. The cost is bounded: by the length of the expression, by what it may say, and by
the size of the events that it looks at. The evaluator copies what an expression names, so a loop in a loop, a list that
grows (``map``, ``filter``) or an ``event`` named in a loop costs the square of the data or more: these are refused.
"""

import re
from itertools import accumulate, chain
from typing import Any, Final, NamedTuple

import cel

from tas_mcp.routing.view import MISSING, View

MAX_LENGTH: Final = 512
"""Characters of an expression."""
MAX_MENTIONS: Final = 8
"""How often an expression may name ``event``: each time copies what it leads to."""
MAX_BODY: Final = 24
"""Tokens of a macro's condition, which is evaluated for each element."""
MAX_EVENT: Final = 16 * 1024
"""Bytes of data and metadata in an event that expressions look at."""

MACROS: Final = ("all", "exists", "exists_one")
FUNCTIONS: Final = frozenset(
    """
    bytes contains double duration dyn endsWith has int size startsWith string timestamp type uint
    getDate getDayOfMonth getDayOfWeek getDayOfYear getFullYear getHours getMilliseconds getMinutes getMonth getSeconds
    """.split()
)
TYPES: Final = frozenset("bool bytes double int list map null_type string uint".split())

_TOKEN = re.compile(
    r"""
      (?P<blank> \s+ | //[^\n]* )
    | (?P<string> [bB]?[rR][bB]? (?: "[^"\n]*" | '[^'\n]*' ) | [bB]? (?: "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' ) )
    | (?P<name> [A-Za-z_][A-Za-z0-9_]* )
    | (?P<number> [0-9][0-9a-zA-Z.]* )
    | (?P<sign> && | \|\| | [<>=!]= | . )
    """,
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    kind: str
    text: str
    position: int


class Expression:
    """A compiled expression. ``evaluate`` never raises."""

    def __init__(self, text: str) -> None:
        """``ValueError`` with the position of what is wrong."""
        if len(text) > MAX_LENGTH:
            raise ValueError(f"at most {MAX_LENGTH} characters are allowed, these are {len(text)}")
        try:
            program = cel.compile(text)
        except ValueError as error:
            raise ValueError(_explained(str(error))) from None
        _refuse_costly(text)
        self._execute = program.execute

    def holds(self, view: View) -> bool:
        return self.evaluate(view) is True

    def evaluate(self, view: View) -> object:
        """The value, or the error (as a ``Failure``)."""
        if view.bound is None:
            view.bound = _bound(view)
        if isinstance(view.bound, Failure):
            return view.bound
        try:
            return self._execute(view.bound)
        except KeyError as error:
            return Failure(f"the expression failed: there is no {error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it does not hold
            return Failure(f"the expression failed: {str(error)[:200]}")


class Failure(NamedTuple):
    """Why there is no value."""

    because: str


def _bound(view: View) -> Any:
    """The event for expressions, bound once for all of them, or why it is not."""
    event = view.event
    texts = chain(event.metadata.items(), event.cloudevent.items())
    size = len(bytes(event.data)) + sum(len(key) + len(str(value)) for key, value in texts)
    if size > MAX_EVENT:
        return Failure(f"the event has {size:,} bytes of data and metadata; expressions look at {MAX_EVENT:,} at most")
    shown: dict[str, Any] = {
        "event_id": event.event_id,
        "event_type": event.event_type,
        "source": event.source,
        "timestamp": event.timestamp,
        "metadata": event.metadata,
        "cloudevent": event.cloudevent,
    }
    if view.data is not MISSING:
        shown["data"] = view.data
    try:
        return cel.Context({"event": shown})
    except ValueError as error:
        return Failure(f"the event cannot be bound: {error}")


def _explained(error: str) -> str:
    """The first thing that the parser did not like. It tells positions as ``<input>:line:column``."""
    _, _, place = error.partition("ERROR: <input>:")
    line, column, detail = (place or f"1:1: {error}").splitlines()[0].split(":", 2)
    return f"line {line}, column {column}: {detail.strip().partition(' expecting ')[0][:200]}"


def _refuse_costly(text: str) -> None:
    """What the parser takes, and costs too much or cannot work; ``ValueError``."""
    if '"""' in text or "'''" in text:
        raise ValueError("texts in three quotes are not supported")
    tokens = [
        Token(match.lastgroup or "", match.group(), match.start())
        for match in _TOKEN.finditer(text)
        if match.lastgroup != "blank"
    ]
    calls = [i for i in range(len(tokens) - 1) if tokens[i].kind == "name" and tokens[i + 1].text == "("]
    known = {"event"} | TYPES
    macros = [i for i in calls if tokens[i].text in MACROS]
    if len(macros) > 1:
        raise _refused(tokens[macros[1]], "one macro is allowed in an expression, and none within another; use more conditions")
    for i in macros:
        known.add(_loop(tokens, i))
    for i in calls:
        if tokens[i].text not in FUNCTIONS and tokens[i].text not in MACROS:
            raise _refused(
                tokens[i], f"{tokens[i].text}() is not supported; allowed are {', '.join(sorted(FUNCTIONS))}, {', '.join(MACROS)}"
            )
    for i in _names(tokens):
        if i not in calls and tokens[i].text not in known:
            raise _refused(tokens[i], f"there is no {tokens[i].text} here; expressions know event")
    mentions = [token for token in tokens if token.text == "event"]
    if len(mentions) > MAX_MENTIONS:
        raise _refused(mentions[MAX_MENTIONS], f"event may be named {MAX_MENTIONS} times")


def _loop(tokens: list[Token], macro: int) -> str:
    """The name of the macro's variable. A macro runs over a field of the event and its body looks at the variable alone."""
    start = macro - 1
    while start > 0 and tokens[start].text != "event" and _in_path(tokens[start]):
        start -= 1
    if macro == 0 or tokens[macro - 1].text != "." or tokens[start].text != "event":
        raise _refused(
            tokens[macro], f"{tokens[macro].text} is written after a field, as in event.data.items.{tokens[macro].text}(x, ...)"
        )
    body = tokens[macro + 4 : _closing(tokens, macro + 1)]
    if len(body) > MAX_BODY:
        raise _refused(body[MAX_BODY], f"at most {MAX_BODY} words and signs are allowed within {tokens[macro].text}")
    for token in body:
        if token.text == "event":
            raise _refused(token, f"event cannot be named within {tokens[macro].text}; use more conditions")
    return tokens[macro + 2].text


def _in_path(token: Token) -> bool:
    return token.kind in ("name", "string", "number") or token.text in (".", "[", "]")


def _closing(tokens: list[Token], opening: int) -> int:
    """Where the bracket is closed; the parser has seen that it is."""
    depths = accumulate((token.text in "([{") - (token.text in ")]}") for token in tokens[opening:])
    return next((opening + i for i, depth in enumerate(depths) if depth == 0), len(tokens))


def _names(tokens: list[Token]) -> list[int]:
    """Where a name stands for a variable: it is no member, and not the name of a member."""
    return [
        i
        for i, token in enumerate(tokens)
        if token.kind == "name" and token.text not in ("true", "false", "null", "in") and (i == 0 or tokens[i - 1].text != ".")
    ]


def _refused(token: Token, detail: str) -> ValueError:
    return ValueError(f"position {token.position}: {detail}")
