"""Liquid as transforms speak it: the library's language, less what reads files or cannot be bounded, plus JSON.

The rules kept here: every loop, filter and value that is read is charged to the budget of the call; values show as JSON does
(``true``, ``{"a":1}``), not as Python does; times are in UTC, and "now" is when the event was accepted.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any, Final, TextIO, cast

import msgspec
from liquid import Environment
from liquid.builtin.output import Output, OutputNode
from liquid.builtin.tags.echo_tag import EchoTag
from liquid.builtin.tags.for_tag import ForNode, ForTag
from liquid.context import RenderContext
from liquid.exceptions import FilterArgumentError
from liquid.filter import with_context
from liquid.output import LimitedStringIO
from liquid.template import BoundTemplate
from liquid.undefined import Undefined

from tas_mcp.routing.transforms.budget import Budget, size

MAX_OUTPUT: Final = 1_048_576
MAX_DATE_FORMAT: Final = 100

Filter = Callable[..., Any]

_encode = msgspec.json.Encoder(enc_hook=lambda value: None if isinstance(value, Undefined) else str(value)).encode

_TEXT: Final = (
    dict.fromkeys(
        """append base64_decode base64_encode base64_url_safe_decode base64_url_safe_encode capitalize downcase escape lstrip
        prepend remove remove_first remove_last replace replace_first replace_last rstrip strip truncate upcase""".split(),
        256,
    )
    | dict.fromkeys(("split", "truncatewords"), 32)
    | dict.fromkeys(("escape_once", "newline_to_br", "squish", "strip_newlines", "url_decode", "url_encode"), 4)
)
"""Filters of text, which get their operands as an output would show them, and the characters that cost a unit. strip_html is
missing: its time grows with the square of the text."""
_ARRAY: Final = frozenset(
    "compact concat find find_index first has join last map reject reverse slice sort sort_natural sum uniq where".split()
)
_SCALAR: Final = frozenset(
    "abs at_least at_most ceil default divided_by floor minus modulo plus round size times".split(),
)


def text(value: Any) -> str:
    """A value as it stands in an output."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, Undefined):
        return ""
    if isinstance(value, bool | dict | list | tuple):
        return str(_encode(value), "utf-8")
    return str(value)


class Context(RenderContext):
    """The state of one rendering. ``Template.call`` gives it its budget."""

    __slots__ = ("budget", "loop_weight", "sizes")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.budget = Budget()
        self.loop_weight = 1
        self.sizes: dict[int, tuple[object, int]] = {}

    def get(self, path: list[object], **kwargs: Any) -> object:
        value = super().get(path, **kwargs)
        self.budget.charge(2)
        self.charge_for(value)
        return value

    def charge_for(self, value: object) -> None:
        """As ``Budget.charge_for``; an array or object is measured once, and kept, so that its id stays its own."""
        if not isinstance(value, list | dict):
            self.budget.charge_for(value)
            return
        known = self.sizes.get(id(value))
        if known is None:
            known = self.sizes[id(value)] = (value, size(value))
        self.budget.charge(known[1] // 256)

    def raise_for_loop_limit(self, length: int = 1) -> None:
        """Called by the library before a loop of so many iterations."""
        self.budget.charge(length * self.loop_weight)
        super().raise_for_loop_limit(length)


class Template(BoundTemplate):
    """A parsed template."""

    context_class = Context

    def call(self, values: dict[str, object], budget: Budget) -> tuple[Context, LimitedStringIO]:
        """What rendering needs."""
        context = Context(self, globals=self.make_globals(values))
        context.budget = budget
        return context, LimitedStringIO(limit=MAX_OUTPUT)


class _OutputNode(OutputNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return buffer.write(text(self.expression.evaluate(context)))


class _Output(Output):
    node_class = _OutputNode


class _Echo(EchoTag):
    node_class = _OutputNode  # type: ignore[assignment]  # prints itself as {{ }}, which means the same


class _ForNode(ForNode):
    """Tells the context what an iteration costs: in proportion to the text of its body."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight = 2 + len(str(self.block)) // 16

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        cast(Context, context).loop_weight = self.weight
        return super().render_to_output(context, buffer)


class _For(ForTag):
    node_class = _ForNode


def make_environment() -> Environment:
    """The environment of all templates."""

    class Bounded(Environment):
        loop_iteration_limit = 10_000
        output_stream_limit = MAX_OUTPUT
        template_class = Template

    environment = Bounded()
    for name in ("include", "render", "tablerow"):
        del environment.tags[name]
    for tag in (_Output, _Echo, _For):
        environment.add_tag(tag)
    known = environment.filters
    environment.filters = {name: partial(_on_text, known[name], name, divisor) for name, divisor in _TEXT.items()}
    environment.filters |= {name: partial(_on_array, known[name], name) for name in _ARRAY}
    environment.filters |= {name: partial(_on_value, known[name]) for name in _SCALAR}
    environment.filters |= {"json": partial(_on_value, _json), "date": partial(_date)}
    for function in environment.filters.values():
        with_context(function)
    return environment


def _environment_of(function: Filter, context: Context) -> dict[str, Any]:
    return {"environment": context.env} if getattr(function, "with_environment", False) else {}


def _on_text(function: Filter, name: str, divisor: int, value: Any, *args: Any, context: Context) -> Any:
    value, words = text(value), [text(arg) for arg in args]
    for each in (value, *words):
        context.budget.charge(1 + len(each) // divisor)
    if name == "replace" and words:
        context.budget.charge(value.count(words[0]) * len("".join(words[1:2])) // 256)
    result = function(value, *words, **_environment_of(function, context))
    context.charge_for(result)
    return result


def _on_array(function: Filter, name: str, value: Any, *args: Any, context: Context) -> Any:
    budget = context.budget
    for each in (value, *args):
        context.charge_for(each)
        budget.charge(2 + (len(each) if isinstance(each, list | dict) else 0))
    if isinstance(value, list):
        if name == "join" and args:
            budget.charge(len(value) * len(text(args[0])) // 256)
        if name == "uniq":
            budget.charge(len(value) * (len(value) + size(value) // 256))
        if name in {"sort", "sort_natural"}:
            budget.charge(2 * len(value))
        if name == "join":
            value = [text(each) for each in value]
    result = function(value, *args, **_environment_of(function, context))
    context.charge_for(result)
    return result


def _on_value(function: Filter, value: Any, *args: Any, context: Context, **named: Any) -> Any:
    for each in (value, *args):
        context.budget.charge(2)
        context.charge_for(each)
    result = function(value, *args, **named)
    context.charge_for(result)
    return result


def _json(value: Any) -> str:
    return str(_encode(value), "utf-8")


def _date(value: Any, form: Any = "", *, context: Context) -> str:
    """A time, formatted as by strftime, in UTC. What is no time stays as it is."""
    context.budget.charge(5)
    form = text(form)
    if len(form) > MAX_DATE_FORMAT or any(before == "%" and after.isdigit() for before, after in pairwise(form)):
        raise FilterArgumentError(f"date: the format must have at most {MAX_DATE_FORMAT} characters, and no widths", token=None)
    moment = _moment(value, context)
    return text(value) if moment is None or not form else moment.strftime(form)


def _moment(value: Any, context: Context) -> datetime | None:
    """Unix seconds, RFC 3339 text, or "now"."""
    if value in {"now", "today"} if isinstance(value, str) else False:
        value = context.globals["accepted_at"]
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str) and value.isdigit():
            return datetime.fromtimestamp(int(value[:20]), UTC)
        if isinstance(value, str):
            moment = datetime.fromisoformat(value[:40])
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None
