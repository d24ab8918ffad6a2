"""JSONata expressions: one that returns new data from the data.

The rules kept here:

* every step of an evaluation is charged to the budget of the call, and every function and operator whose work grows with its
  operands before it works (the library's own Timebox reads the clock, and stops looking inside an object constructor);
* an evaluation gets data of its own, decoded for it: the library writes into its input (``items{"k": $}`` on an empty array);
* what would make two evaluations of one event differ is refused ($eval, $random, $shuffle), or fixed: $now() and $millis() are
  the time at which the event was accepted;
* regexes are RE2.
"""

import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from math import ceil, isfinite
from typing import Any, Final

import msgspec
import re2
from msgspec import Raw

from tas_mcp.routing.transforms.budget import LIMIT, Budget, size

_limit = sys.getrecursionlimit()
from jsonata.functions import Functions  # noqa: E402
from jsonata.jexception import JException  # noqa: E402
from jsonata.jsonata import Jsonata  # noqa: E402
from jsonata.parser import Parser  # noqa: E402
from jsonata.regex_engine import RegexFlags  # noqa: E402
from jsonata.utils import Utils  # noqa: E402

sys.setrecursionlimit(_limit)  # importing the library raises it for the whole process

MAX_LENGTH: Final = 8_192
MAX_DATA: Final = 131_072
"""The bytes of data that an expression is given at most: to decode 1 MiB of nested arrays alone takes more than is allowed."""
MAX_DEPTH: Final = 100
"""How deep expressions, function calls included, may be nested when evaluated."""
MAX_WORDED: Final = 10**18
"""Larger numbers are not written out by $formatInteger: its time grows without bound."""
MAX_PICTURE: Final = 256
REFUSED: Final = frozenset({"eval", "random", "shuffle"})

STEP: Final = 8
"""The cost of one step of an evaluation."""

Evaluate = Callable[[bytes | Raw, int, Budget], bytes]
"""New data (JSON) from data and the time of acceptance (Unix ms). ``ExpressionFailed`` or ``Exhausted`` when there is none."""


class ExpressionSyntaxError(ValueError):
    """An expression that cannot be compiled: the text says at which position (from 1) and why."""


class ExpressionFailed(ValueError):
    """An expression that yields nothing for this data: the text says why."""


class _Run:
    """One evaluation: its budget, and how deep it is at the moment."""

    __slots__ = ("budget", "depth")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.depth = 0


_run: ContextVar[_Run] = ContextVar("run")
"""The evaluation that runs: the functions of the library are not told for whom they work."""


def compile_expression(text: str) -> Evaluate:
    """The expression, ready to be evaluated often; ``ExpressionSyntaxError`` if it cannot be."""
    if len(text) > MAX_LENGTH:
        raise ExpressionSyntaxError(f"an expression has at most {MAX_LENGTH:,} characters, this has {len(text):,}")
    try:
        expression = _Bounded(text, _regex)
        _check(expression.ast)
    except JException as error:
        raise ExpressionSyntaxError(f"position {max(error.location, 0)}: {error}") from None
    except re2.error as error:
        raise ExpressionSyntaxError(f"a regex (RE2) cannot be compiled: {error}") from None
    except RecursionError:
        raise ExpressionSyntaxError("the expression is nested too deeply") from None
    except Exception as error:  # the parser's own trouble with what it did not expect
        raise ExpressionSyntaxError(f"it cannot be parsed ({error})") from error

    def evaluate(data: bytes | Raw, accepted_ms: int, budget: Budget) -> bytes:
        if len(bytes(data)) > MAX_DATA:
            raise ExpressionFailed(f"the data has {len(bytes(data)):,} bytes; an expression takes at most {MAX_DATA:,}")
        run = _run.set(_Run(budget))
        try:
            value = expression.evaluate(_decode(data), _clock(accepted_ms))
            if value is None:
                raise ExpressionFailed("the expression yields nothing (what it names is not there)")
            return _encode(value)
        except JException as error:
            raise ExpressionFailed(_described(error)) from None
        finally:
            _run.reset(run)

    return evaluate


def _described(error: JException) -> str:
    return f"position {error.location}: {error}" if error.location > 0 else str(error)


def _clock(accepted_ms: int) -> dict[str, Any]:
    def now(picture: str | None = None, timezone: str | None = None) -> Any:
        return Functions.datetime_from_millis(accepted_ms, picture, timezone)

    return {"now": Jsonata.JLambda(now), "millis": Jsonata.JLambda(lambda: accepted_ms)}


_options = re2.Options()
_options.log_errors = False


def _regex(pattern: str, flags: RegexFlags) -> Any:
    prefix = ("i" if flags.case_insensitive else "") + ("m" if flags.multiline else "")
    return re2.compile(f"(?{prefix}){pattern}" if prefix else pattern, _options)


def _foreign(value: Any) -> None:
    if value is not Utils.NULL_VALUE:
        raise ExpressionFailed("the result holds a function, which is no data")


_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder(enc_hook=_foreign).encode


def _check(ast: Any) -> None:
    """Refuse what parses and is not allowed."""
    for node in _nodes(ast):
        if node.type == "variable" and node.value in REFUSED:
            raise ExpressionSyntaxError(
                f"position {node.position}: ${node.value} is not available: a transform makes the same of an event each time"
            )
        if node.type == "lambda" and node.signature is not None:
            raise ExpressionSyntaxError(f"position {node.position}: a function's signature <...> is not supported; leave it out")


def _nodes(root: Any) -> Iterator[Any]:
    """All nodes of a syntax tree."""
    waiting, seen = [root], set()
    while waiting:
        found = waiting.pop()
        if isinstance(found, list | tuple):
            waiting += found
        elif isinstance(found, Parser.Symbol) and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += vars(found).values()


class _Bounded(Jsonata):  # type: ignore[misc]  # the library has no types
    """Charges each step, and the operators whose work grows with their operands."""

    def __init__(self, text: str, regex_engine: Any) -> None:
        super().__init__(text, regex_engine)
        self.environment = self.create_frame(_library)
        self.set_validate_input(False)
        self.set_output_convert_nulls(False)

    def validate_arguments(self, signature: Any, args: Any, context: Any) -> Any:
        _charge_lengths(args)
        return super().validate_arguments(signature, args, context)

    def evaluate_string_concat(self, lhs: Any, rhs: Any) -> Any:
        for operand in (lhs, rhs):
            _charge_for(operand, divisor=256 if isinstance(operand, str) else 8)
        return super().evaluate_string_concat(lhs, rhs)

    def evaluate_equality_expression(self, lhs: Any, rhs: Any, op: Any) -> Any:
        _charge_for(lhs, rhs, divisor=8)
        return super().evaluate_equality_expression(lhs, rhs, op)

    def evaluate_includes_expression(self, lhs: Any, rhs: Any) -> Any:
        _charge_for(lhs, rhs, divisor=8)
        return super().evaluate_includes_expression(lhs, rhs)

    def evaluate_numeric_expression(self, lhs: Any, rhs: Any, op: Any) -> Any:
        result = super().evaluate_numeric_expression(lhs, rhs, op)
        _run.get().budget.charge_for(result)
        return result

    def evaluate_range_expression(self, lhs: Any, rhs: Any) -> Any:
        if isinstance(lhs, int) and isinstance(rhs, int):
            _run.get().budget.charge(max(0, rhs - lhs) // 2)
        return super().evaluate_range_expression(lhs, rhs)

    def evaluate_wildcard(self, expr: Any, given: Any) -> Any:
        _charge_for(given, divisor=4)
        return super().evaluate_wildcard(expr, given)

    def evaluate_descendants(self, expr: Any, given: Any) -> Any:
        _charge_for(given, divisor=4)
        return super().evaluate_descendants(expr, given)

    def evaluate_transform_expression(self, expr: Any, given: Any, environment: Any) -> Any:
        return _Charged("clone", super().evaluate_transform_expression(expr, given, environment))


class _Charged(Jsonata.JFunction):  # type: ignore[misc]  # the library has no types
    """A function of the library that is paid before it works."""

    def __init__(self, name: str, function: Any) -> None:
        super().__init__(function, None)
        self.function_name = name
        self.signature = function.signature

    def call(self, given: Any, args: Any) -> Any:
        budget = _run.get().budget
        budget.charge(STEP)
        if self.function_name in _PICTURED and any(isinstance(arg, str) and len(arg) > MAX_PICTURE for arg in args):
            raise ExpressionFailed(f"${self.function_name} takes texts of at most {MAX_PICTURE} characters")
        if self.function_name in _SHALLOW or (self.function_name in _RECURSIVE and not isinstance(args[0], list)):
            _charge_lengths(args)
        else:
            _charge_for(*args, divisor=_DIVISORS.get(self.function_name, 256))
        if extra := _EXTRA.get(self.function_name):
            budget.charge(extra(*args, *[None] * (4 - len(args))))
        result = super().call(given, args)
        budget.charge_for(result if isinstance(result, str | int) else None)
        return result

    def get_number_of_args(self) -> int:
        return int(self.function.get_number_of_args())


_SHALLOW: Final = frozenset("append count each exists filter map reduce reverse sift single type zip".split())
"""They handle elements, and do not look into them."""

_PICTURED: Final = frozenset("formatBase formatInteger formatNumber fromMillis now parseInteger toMillis".split())
"""Their time grows with the square of what they read."""

_RECURSIVE: Final = frozenset({"keys", "lookup", "spread"})
"""They look into all arrays of an array."""

_DIVISORS: Final = (
    {"string": 8, "clone": 8, "merge": 8, "boolean": 2, "not": 2}
    | dict.fromkeys(_RECURSIVE, 1)
    | dict.fromkeys("base64encode base64decode encodeUrl encodeUrlComponent decodeUrl decodeUrlComponent trim number".split(), 8)
)


def _matches(text: Any, pattern: Any) -> int:
    """How often a pattern is found, paid for while counting."""
    if not isinstance(text, str):
        return 0
    if isinstance(pattern, str):
        return text.count(pattern)
    if not Functions.is_regex(pattern):
        raise ExpressionFailed("a pattern is a text or a regex; this is neither")
    budget, found = _run.get().budget, 0
    budget.charge(len(text) // 64)
    for _ in pattern.finditer(text):
        budget.charge(4)
        found += 1
    return found


def _replacing(text: Any, pattern: Any, new: Any, limit: Any) -> int:
    found, size = _matches(text, pattern), len(text or "")
    added = len(new) * (1 + size // 256) if isinstance(new, str) else 0
    if isinstance(pattern, str):
        return found * (4 + size // 4096) + found * added // 256
    passes = ceil(limit) if isinstance(limit, int | float) and isfinite(limit) else 0
    return found * added // 256 + max(0, passes) * (8 + (size + max(0, passes) * added) // 64)


def _distinct(value: Any, *_: Any) -> int:
    return len(value) * (len(value) + size(value) // 64) // 8 if isinstance(value, list) else 0


_EXTRA: Final[dict[str, Callable[..., int]]] = {
    "contains": lambda text, pattern, *_: len(text or "") // 64 if not isinstance(pattern, str) else 0,
    "distinct": _distinct,
    "formatInteger": lambda value, *_: LIMIT if isinstance(value, int | float) and abs(value) > MAX_WORDED else 0,
    "join": lambda items, separator, *_: len(items) * len(separator or "") // 256 if isinstance(items, list) else 0,
    "match": lambda text, pattern, *_: _matches(text, pattern),
    "pad": lambda _text, width, *_: int(abs(width)) // 64 if isinstance(width, int | float) else 0,
    "replace": _replacing,
    "sort": lambda items, *_: 2 * len(items) if isinstance(items, list) else 0,
    "split": lambda text, pattern, *_: len(text or "") // 8 if pattern == "" else _matches(text, pattern),
}
"""What a function costs beside its arguments' sizes. They get four arguments, absent ones as None."""


def _charge_for(*values: Any, divisor: int = 256) -> None:
    budget = _run.get().budget
    for value in values:
        budget.charge_for(value, divisor)


def _charge_lengths(args: Any) -> None:
    budget = _run.get().budget
    for arg in args or ():
        budget.charge(1 + (len(arg) // 2 if isinstance(arg, list | dict) else 0))


def _entered(_expr: Any, given: Any, _environment: Any) -> None:
    run = _run.get()
    run.depth += 1
    if run.depth > MAX_DEPTH:
        raise ExpressionFailed(f"it goes deeper than the {MAX_DEPTH} levels allowed")
    run.budget.charge(STEP + (len(given) // 2 if isinstance(given, list) else 0))


def _left(expr: Any, _given: Any, _environment: Any, result: Any) -> None:
    run = _run.get()
    run.depth -= 1
    if isinstance(result, list | dict):
        if expr.type == "unary" or expr.group is not None:
            run.budget.charge_for(result)
        elif expr.type != "variable":
            run.budget.charge(len(result) // 4)


def _make_library() -> Any:
    """The functions of the library, charged, and what it calls around each step."""
    library = Jsonata.Frame(Jsonata.static_frame)
    for name, function in Jsonata.static_frame.bindings.items():
        library.bind(name, _Charged(name, function))
    library.set_evaluate_entry_callback(_entered)
    library.set_evaluate_exit_callback(_left)
    return library


_library: Final = _make_library()
