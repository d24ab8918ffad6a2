"""Liquid templates: text, and JSON whose strings are templates.

A string that is one ``{{ expression }}`` and nothing else keeps the type of its value (a number stays a number; what is missing
becomes null); any other is text. A string without ``{{`` or ``{%`` is itself.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from liquid.ast import Node
from liquid.builtin.expressions import LoopExpression
from liquid.builtin.expressions.primitive import RangeLiteral
from liquid.builtin.output import OutputNode
from liquid.context import RenderContext
from liquid.exceptions import LiquidError
from liquid.expression import Expression
from liquid.template import BoundTemplate
from liquid.undefined import Undefined

from tas_mcp.errors import Flaw
from tas_mcp.routing.transforms.budget import Budget
from tas_mcp.routing.transforms.liquid_environment import Template, make_environment
from tas_mcp.validation import escape

MAX_LENGTH: Final = 16_384
MAX_DEPTH: Final = 32
ROOT: Final = "event"
NEWLINE: Final = "\n"

Render = Callable[[dict[str, object], Budget], Any]
"""Makes a value from the variables. What it raises is the library's, or ``Exhausted``."""

_environment: Final = make_environment()


class TemplateSyntaxError(ValueError):
    """A template that cannot be parsed: the text says where (line and column, from 1) and why."""


def is_template(text: str) -> bool:
    return "{{" in text or "{%" in text


def compile_text(text: str) -> Callable[[dict[str, object], Budget], str]:
    """The template as text; ``TemplateSyntaxError`` if it cannot be."""
    if not is_template(text):
        return lambda _values, _budget: text
    template = _parse(text)

    def render(values: dict[str, object], budget: Budget) -> str:
        context, buffer = template.call(values, budget)
        template.render_with_context(context, buffer)
        return buffer.getvalue()

    return render


def compile_value(value: Any, report: Callable[[Flaw], None], pointer: str = "", depth: int = MAX_DEPTH) -> Render:
    """A JSON value whose strings are templates; what is wrong is reported with its pointer below ``pointer``."""
    if isinstance(value, str):
        try:
            return _compile_string(value)
        except TemplateSyntaxError as error:
            report(Flaw(pointer, str(error)))
    elif isinstance(value, list | dict) and depth == 0:
        report(Flaw(pointer, f"nested deeper than the {MAX_DEPTH} levels allowed"))
    elif isinstance(value, list):
        items = [compile_value(each, report, f"{pointer}/{i}", depth - 1) for i, each in enumerate(value)]
        return lambda values, budget: [item(values, budget) for item in items]
    elif isinstance(value, dict):
        members = {key: compile_value(each, report, f"{pointer}/{escape(key)}", depth - 1) for key, each in value.items()}
        return lambda values, budget: {key: member(values, budget) for key, member in members.items()}
    return lambda _values, _budget: value


def _compile_string(text: str) -> Render:
    if not is_template(text):
        return lambda _values, _budget: text
    template = _parse(text)
    node = template.nodes[0] if len(template.nodes) == 1 else None
    if not isinstance(node, OutputNode):
        return compile_text(text)
    expression = node.expression

    def render(values: dict[str, object], budget: Budget) -> Any:
        context, _ = template.call(values, budget)
        value = expression.evaluate(context)
        return None if isinstance(value, Undefined) else value

    return render


def _parse(text: str) -> Template:
    if len(text) > MAX_LENGTH:
        raise TemplateSyntaxError(f"a template has at most {MAX_LENGTH:,} characters, this has {len(text):,}")
    try:
        template = _environment.from_string(text)
        _check(template, text)
    except (LiquidError, RecursionError) as error:
        if isinstance(error, LiquidError) and not isinstance(error.__cause__, RecursionError):
            raise TemplateSyntaxError(described(error)) from None
        raise TemplateSyntaxError("the template is nested too deeply") from None
    return cast(Template, template)


def described(error: LiquidError) -> str:
    """A message of the library in one line, with the position when it is known."""
    where = error.context()
    return f"line {where[0]}, column {where[1] + 1}: {error.message}" if where else str(error.message)


def _check(template: BoundTemplate, text: str) -> None:
    """Refuse what parses and cannot work."""
    found = template.analyze()
    for name, variables in found.globals.items():
        if name != ROOT:
            where = _position(text, variables[0].span.index)
            raise TemplateSyntaxError(f"{where}: there is no {name!r}; the event is `{ROOT}`, as in {{{{ {ROOT}.data.{name} }}}}")
    for name, spans in found.filters.items():
        if name not in _environment.filters:
            known = ", ".join(sorted(_environment.filters))
            raise TemplateSyntaxError(f"{_position(text, spans[0].index)}: there is no filter {name!r}; there are {known}")
    context = RenderContext(template)
    for node in template.nodes:
        for expression in _outside_loops(node, context):
            if isinstance(expression, RangeLiteral):
                raise TemplateSyntaxError(f"the range {expression} can only be looped over, as in {{% for i in {expression} %}}")


def _position(text: str, index: int) -> str:
    line = text.count(NEWLINE, 0, index) + 1
    return f"line {line}, column {index - text.rfind(NEWLINE, 0, index)}"


def _outside_loops(node: Node, context: RenderContext) -> Iterator[Expression]:
    """All expressions below a node but the ranges that a loop runs over."""
    for expression in node.expressions():
        yield from _parts(expression)
    for child in node.children(context):
        yield from _outside_loops(child, context)


def _parts(expression: Expression) -> Iterator[Expression]:
    yield expression
    for child in expression.children():
        if isinstance(expression, LoopExpression) and child is expression.iterable:
            yield from (part for part in _parts(child) if part is not child)
        else:
            yield from _parts(child)
