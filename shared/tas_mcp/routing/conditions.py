"""Conditions: what must hold of an event, compiled once into a function of the view and one that says why.

A condition is written in one of these forms:

    {"field", "operator", "value", "negate"}     a leaf; the rows of ``OPERATORS`` say what it asks of the field
    {"operator": "cel", "value", "negate"}       a leaf; an expression that looks at the whole event
    {"all": [...]}  {"any": [...]}  {"not": {}}  conditions of conditions
    {"exact": {...}}  "prefix"  "suffix"         CloudEvents: each named attribute is, starts with, ends with the text

The rules kept here: a condition that makes no sense is refused when it is compiled, with all that is wrong with it; one
that compiled never raises. A missing field or a value of another type fails the test of a leaf. A field with ``[*]`` passes
when any of its values does. ``negate``, ``ne`` and ``not_...`` turn the result round, after that. Numbers compare as
numbers, whether written 1 or 1.0; true and false are no numbers.

``holds`` and ``why`` of a node are made of the same tests, so they cannot disagree.
"""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

from msgspec import Struct

from tas_mcp.errors import Flaw
from tas_mcp.routing.equality import kind
from tas_mcp.routing.expressions import Expression, Failure
from tas_mcp.routing.fields import FieldSyntaxError, compile_each, compile_field, compile_test
from tas_mcp.routing.operators import OPERATORS, Check, shown
from tas_mcp.routing.view import MISSING, View
from tas_mcp.validation import escape

MAX_CONDITIONS: Final = 100
MAX_DEPTH: Final = 8
SEEN_LENGTH: Final = 256

Predicate = Callable[[View], bool]
Why = dict[str, Any]


class Condition(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, rename={"not_": "not"}):
    """One condition; see the module for its forms."""

    field: str | None = None
    operator: str | None = None
    value: Any = None
    negate: bool = False
    all: list["Condition"] | None = None
    any: list["Condition"] | None = None
    not_: "Condition | None" = None
    exact: dict[str, str] | None = None
    prefix: dict[str, str] | None = None
    suffix: dict[str, str] | None = None


class Node(NamedTuple):
    """A compiled condition: ``holds`` is fast and never raises; ``why`` is its result as a tree of JSON values.

    A leaf tells ``{"field", "operator", "value", "negate"?, "matched", "saw"?, "because"}`` (``saw`` is left out when nothing
    was there), the others ``{"all" | "any" | "not": ..., "matched"}``.
    """

    holds: Predicate
    why: Callable[[View], Why]


class Fact(NamedTuple):
    """What a test came to, in words, and the value that it saw."""

    passed: bool
    text: str
    seen: object


class ConditionError(ValueError):
    """All that is wrong with conditions; the pointers are relative to what was compiled (``/0/field``, ``/value``)."""

    def __init__(self, flaws: list[Flaw]) -> None:
        super().__init__("; ".join(flaw.detail for flaw in flaws))
        self.flaws = tuple(flaws)


def compile_condition(condition: Condition) -> Node:
    """Compiles a condition, which must not be changed afterwards; ``ConditionError`` if it makes no sense."""
    compiler = _Compiler()
    node = compiler.node(condition, "", 1)
    if node is None or compiler.flaws:
        raise ConditionError(compiler.flaws)
    return node


def compile_conditions(conditions: list[Condition]) -> Node:
    """Compiles conditions that must all hold (none: always); ``ConditionError`` with all that is wrong with them."""
    compiler = _Compiler()
    nodes = compiler.nodes(conditions, "", 1)
    if compiler.flaws:
        raise ConditionError(compiler.flaws)
    return _all(nodes)


def field_of(attribute: str) -> str:
    """The field that a CloudEvents attribute is in an event."""
    own = {"id": "event_id", "type": "event_type", "source": "source", "time": "timestamp"}
    return own.get(attribute) or f"cloudevent.{attribute}"


CEL: Final = "cel"
ALLOWED: Final = (*OPERATORS, CEL)
DIALECTS: Final = {"exact": "eq", "prefix": "starts_with", "suffix": "ends_with"}
FORMS: Final = ("operator", "all", "any", "not", *DIALECTS)


def form(condition: Condition) -> list[str]:
    """The forms that a condition is written in; a sound one has exactly one."""
    given = {
        "operator": condition.operator if condition.operator is not None else condition.field,
        "all": condition.all,
        "any": condition.any,
        "not": condition.not_,
        "exact": condition.exact,
        "prefix": condition.prefix,
        "suffix": condition.suffix,
    }
    return [name for name, value in given.items() if value is not None]


def leaves(condition: Condition) -> list[Condition]:
    """What a condition in the form of CloudEvents says, as leaves that must all hold."""
    for dialect, operator in DIALECTS.items():
        if (attributes := getattr(condition, dialect)) is not None:
            return [Condition(field=field_of(name), operator=operator, value=text) for name, text in attributes.items()]
    return []


class _Compiler:
    """One run over a tree of conditions, which gathers its flaws and counts its nodes."""

    def __init__(self) -> None:
        self.flaws: list[Flaw] = []
        self._count = 0

    def nodes(self, conditions: list[Condition], pointer: str, depth: int) -> list[Node]:
        compiled = [self.node(condition, f"{pointer}/{i}", depth) for i, condition in enumerate(conditions)]
        return [node for node in compiled if node is not None]

    def node(self, condition: Condition, pointer: str, depth: int) -> Node | None:
        """The compiled condition, or None: then there is a flaw more."""
        self._count += 1
        forms = form(condition)
        if self._count > MAX_CONDITIONS:
            if self._count == MAX_CONDITIONS + 1:
                self._flaw(pointer, f"at most {MAX_CONDITIONS} conditions are allowed in a rule")
        elif depth > MAX_DEPTH:
            self._flaw(pointer, f"at most {MAX_DEPTH} levels of conditions are allowed")
        elif len(forms) != 1:
            found = f"has {' and '.join(forms)}" if forms else "has none of them"
            self._flaw(pointer, f"a condition is written with one of {', '.join(FORMS)}; this one {found}")
        elif condition.operator == CEL:
            return self._expression(condition, pointer)
        elif forms == ["operator"]:
            return self._leaf(condition, pointer)
        elif condition.negate or condition.value is not None:
            name = "negate" if condition.negate else "value"
            self._flaw(f"{pointer}/{name}", f"only a condition with an operator has {name}; beside {forms[0]} it means nothing")
        else:
            return self._inner(condition, forms[0], pointer, depth)
        return None

    def _inner(self, condition: Condition, name: str, pointer: str, depth: int) -> Node | None:
        if condition.not_ is not None:
            inner = self.node(condition.not_, pointer + "/not", depth + 1)
            return inner and _not(inner)
        if name in DIALECTS:
            texts = zip(leaves(condition), getattr(condition, name), strict=True)
            found = [self._leaf(leaf, f"{pointer}/{name}/{escape(attribute)}", "") for leaf, attribute in texts]
            nodes = [node for node in found if node is not None]
        else:
            inners = condition.all if condition.all is not None else condition.any
            nodes = self.nodes(inners or [], f"{pointer}/{name}", depth + 1)
        if not (nodes or getattr(condition, name)):
            self._flaw(f"{pointer}/{name}", "must not be empty")
            return None
        return _any(nodes) if name == "any" else _all(nodes)

    def _expression(self, condition: Condition, pointer: str) -> Node | None:
        if condition.field is not None:
            self._flaw(pointer + "/field", "an expression has no field; it looks at event")
        if not isinstance(condition.value, str):
            self._flaw(pointer + "/value", f"cel: the value must be an expression in a string, not {kind(condition.value)}")
            return None
        try:
            return _computed(condition, Expression(condition.value))
        except ValueError as error:
            self._flaw(pointer + "/value", f"cel: {error}")
            return None

    def _leaf(self, condition: Condition, pointer: str, field_pointer: str = "/field") -> Node | None:
        name, operator = condition.field, condition.operator
        each = check = None
        read: Callable[[View], Any] | None = None
        if name is None:
            self._flaw(pointer + field_pointer, "the field is missing")
        else:
            try:
                each = compile_each(name)
                read = each or compile_field(name)
            except FieldSyntaxError as error:
                self._flaw(pointer + field_pointer, str(error))
        if operator is None:
            self._flaw(pointer + "/operator", f"the operator is missing; allowed are {', '.join(ALLOWED)}")
        elif (operate := OPERATORS.get(operator)) is None:
            self._flaw(pointer + "/operator", _no_such(operator))
        else:
            try:
                check = operate(condition.value)
            except ValueError as error:
                self._flaw(pointer + "/value", f"{operator}: {error}")
        if name is None or read is None or check is None:
            return None
        passes, fact = (compile_test(name, check.test), _fact) if each is None else (_any_of(each, check.test), _fact_of_each)
        inverted = check.inverted != condition.negate
        return Node(_inverted(passes) if inverted else passes, _tells(condition, read, fact, check, inverted))

    def _flaw(self, pointer: str, detail: str) -> None:
        self.flaws.append(Flaw(pointer, detail))


def _no_such(operator: str) -> str:
    close = get_close_matches(operator[:40], ALLOWED, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"no such operator {operator[:40]!r}; {hint}allowed are {', '.join(ALLOWED)}"


def _inverted(holds: Predicate) -> Predicate:
    return lambda view: not holds(view)


def _any_of(each: Callable[[View], list[Any]], test: Callable[[Any], bool]) -> Predicate:
    return lambda view: any(map(test, each(view)))


def _tells(
    condition: Condition,
    read: Callable[[View], Any],
    fact: Callable[[str | None, Any, Check], Fact],
    check: Check,
    inverted: bool,
) -> Callable[[View], Why]:
    def why(view: View) -> Why:
        actual = read(view)
        passed, text, seen = fact(condition.field, actual, check)
        return _told(condition, passed != inverted, seen, text)

    return why


def _fact(name: str | None, actual: object, check: Check) -> Fact:
    passed = check.test(actual)
    if actual is MISSING:
        return Fact(passed, f"{name} is missing", actual)
    objection = None if passed else check.objection(actual)
    return Fact(passed, f"{name} {objection or f'is {shown(actual)}, ' + ('' if passed else 'not ') + check.phrase}", actual)


def _fact_of_each(name: str | None, values: list[Any], check: Check) -> Fact:
    passing = [value for value in values if check.test(value)]
    if passing:
        return Fact(True, f"of {name}, {shown(passing[0])} is {check.phrase}", values)
    if len(values) == 1:
        return Fact(False, _fact(name, values[0], check).text, values)
    if not values:
        return Fact(False, f"{name} is missing", MISSING)
    return Fact(False, f"of {name}, none of the {len(values)} values is {check.phrase}", values)


def _computed(condition: Condition, expression: Expression) -> Node:
    """A leaf that is an expression: what fails, or gives anything but a boolean, does not hold."""
    inverted, holds = condition.negate, expression.holds

    def why(view: View) -> Why:
        value = expression.evaluate(view)
        matched = (value is True) != inverted
        if isinstance(value, Failure):
            text = value.because
        elif isinstance(value, bool):
            text = f"the expression is {shown(value)}"
        else:
            text = f"the expression gives {kind(value)}, not a boolean"
        return _told(condition, matched, MISSING, text)

    return Node(_inverted(holds) if inverted else holds, why)


def _told(condition: Condition, matched: bool, seen: object, text: str) -> Why:
    """What a leaf tells."""
    told: Why = {} if condition.field is None else {"field": condition.field}
    told |= {"operator": condition.operator, "value": condition.value}
    if condition.negate:
        told["negate"] = True
    told["matched"] = matched
    if seen is not MISSING:
        told["saw"] = _seen(seen)
    told["because"] = f"{'matched' if matched else 'not matched'}: {text}"
    return told


def _seen(value: object) -> object:
    """The value as it was, or the beginning of its JSON text when that is long."""
    text = shown(value, SEEN_LENGTH)
    return text if text.endswith("...") and len(text) == SEEN_LENGTH else value


def _not(node: Node) -> Node:
    def why(view: View) -> Why:
        inner = node.why(view)
        return {"not": inner, "matched": not inner["matched"]}

    return Node(_inverted(node.holds), why)


def _all(nodes: list[Node]) -> Node:
    def why(view: View) -> Why:
        told = [node.why(view) for node in nodes]
        return {"all": told, "matched": all(each["matched"] for each in told)}

    return Node(_all_hold([node.holds for node in nodes]), why)


def _all_hold(inners: list[Predicate]) -> Predicate:
    """Two or three, as most rules have, are spelt out: a loop over them takes a third longer."""
    match inners:
        case [one]:
            return one
        case [one, two]:
            return lambda view: one(view) and two(view)
        case [one, two, three]:
            return lambda view: one(view) and two(view) and three(view)

    def holds(view: View) -> bool:
        for inner in inners:  # noqa: SIM110 - all() of a generator takes twice as long
            if not inner(view):
                return False
        return True

    return holds


def _any(nodes: list[Node]) -> Node:
    inners = tuple(node.holds for node in nodes)

    def holds(view: View) -> bool:
        for inner in inners:  # noqa: SIM110 - likewise
            if inner(view):
                return True
        return False

    def why(view: View) -> Why:
        told = [node.why(view) for node in nodes]
        return {"any": told, "matched": any(each["matched"] for each in told)}

    return Node(inners[0] if len(inners) == 1 else holds, why)
