"""A rule's transform: what a target gets instead of the event as it came.

The steps, in this order: rename, remove, add, then template or jsonata.

The rules kept here: what cannot work is refused when it is compiled, all of it and where. A transform that fails says so and
yields nothing, never half of what it should. The event it is given stays as it is: other targets read it too. Identity (event_id,
source) and timestamp are not changed.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from liquid.exceptions import LiquidError
from msgspec import Raw, Struct

from tas_mcp.errors import Flaw
from tas_mcp.messages import Event
from tas_mcp.routing.equality import kind
from tas_mcp.routing.fields import FieldSyntaxError, walk
from tas_mcp.routing.transforms.budget import Budget, Exhausted
from tas_mcp.routing.transforms.expressions import Evaluate, ExpressionSyntaxError, compile_expression
from tas_mcp.routing.transforms.places import Place, Unwritable, parse_place, removed, written
from tas_mcp.routing.transforms.templates import Render, TemplateSyntaxError, compile_text, compile_value, described, is_template
from tas_mcp.routing.view import MISSING, View, payload_text
from tas_mcp.validation import escape

MAX_FIELDS: Final = 100
MAX_TYPE_BYTES: Final = 255
MAX_CONTENT_TYPE: Final = 255


class Transform(Struct, forbid_unknown_fields=True, kw_only=True):
    """How an event is changed for a target. All may be absent; ``template`` and ``jsonata`` exclude each other.

    ``template``: a string is a Liquid template whose output is the body of the delivery, as ``content_type`` (absent: what the
    target sends by default); any other JSON value is the new data, its strings templates.
    """

    add_fields: dict[str, Any] | None = None
    remove_fields: list[str] | None = None
    rename_fields: dict[str, str] | None = None
    template: Any = None
    content_type: str | None = None
    jsonata: str | None = None


class TransformError(ValueError):
    """All that is wrong with a transform; the pointers are relative to it (``/add_fields/data.x``, ``/jsonata``)."""

    def __init__(self, flaws: list[Flaw]) -> None:
        super().__init__("; ".join(flaw.detail for flaw in flaws))
        self.flaws = tuple(flaws)


class TransformFailed(ValueError):
    """A transform that cannot be done with this event: the text says at which step, and why."""


class Output(NamedTuple):
    """What came out: a new event, and the body and its type where a template wrote one."""

    event: Event
    body: str | None
    content_type: str | None


class _Draft:
    """The event while it is changed. What it shares with the view is replaced, never written to."""

    __slots__ = ("_raw", "_value", "body", "event", "event_type", "metadata")

    def __init__(self, view: View) -> None:
        self.event = view.event
        self.event_type = view.event.event_type
        self.metadata = view.event.metadata
        self.body: str | None = None
        self._raw: Raw | None = view.event.data
        self._value: Any = view

    @property
    def data(self) -> Any:
        value = self._value.data if isinstance(self._value, View) else self._value
        if value is MISSING:
            raise ValueError("the data cannot be read: it holds a number out of range, or is nested too deeply")
        return value

    @data.setter
    def data(self, value: Any) -> None:
        self._value, self._raw = value, None

    @property
    def raw(self) -> Raw:
        """The data as JSON: the sender's own text as long as nothing in it was changed."""
        return Raw(_encode(self._value)) if self._raw is None else self._raw

    def read(self, place: Place) -> Any:
        if place.root == "data":
            return walk(self.data, place.steps)
        return self.metadata.get(str(place.steps[0]), MISSING)

    def write(self, place: Place, value: Any) -> None:
        if place.root == "data":
            self.data = written(self.data, place.steps, value)
        elif not isinstance(value, str):
            raise Unwritable(f"it takes a string, not {kind(value)}")
        elif place.root == "metadata":
            self.metadata = {**self.metadata, str(place.steps[0]): value}
        else:
            self.event_type = _checked_type(value)

    def remove(self, place: Place) -> None:
        if place.root == "metadata":
            self.metadata = {key: value for key, value in self.metadata.items() if key != place.steps[0]}
        elif not place.steps:
            self.data = None
        else:
            data = self.data
            without = removed(data, place.steps)
            if without is not data:
                self.data = without

    def variables(self) -> dict[str, object]:
        """What templates see."""
        event = self.event
        seen = {
            "event_id": event.event_id,
            "event_type": self.event_type,
            "source": event.source,
            "timestamp": event.timestamp,
            "metadata": self.metadata,
            "cloudevent": event.cloudevent,
            "data": self.data,
        }
        return {"event": seen, "accepted_at": event.accepted_at / 1e9}

    def finished(self) -> Event:
        cloudevent = self.event.cloudevent
        if self._raw is None:  # other data takes the place of bytes too
            cloudevent = {name: value for name, value in cloudevent.items() if name != "data_base64"}
        return msgspec.structs.replace(
            self.event, event_type=self.event_type, metadata=dict(self.metadata), data=self.raw, cloudevent=cloudevent
        )


Step = Callable[[_Draft, Budget], None]


class Reshape:
    """A compiled transform: immutable, and safe to share. ``compile_transform`` makes it."""

    __slots__ = ("_content_type", "_steps")

    def __init__(self, steps: list[tuple[str, Step]], content_type: str | None) -> None:
        self._steps = tuple(steps)
        self._content_type = content_type

    def __call__(self, view: View) -> Output:
        """The event as the target gets it; ``TransformFailed`` when that cannot be made."""
        draft, budget = _Draft(view), Budget()
        at = ""
        try:
            for at, step in self._steps:  # noqa: B007  # an error tells at which step
                step(draft, budget)
            event = draft.finished()
        except LiquidError as error:
            raise TransformFailed(f"{at}: {described(error)}") from None
        except Exception as error:  # the libraries raise what they like over what a stranger's expression does to odd data
            raise TransformFailed(f"{at}: {_reason(error)}") from error
        return Output(event, draft.body, self._content_type if draft.body is not None else None)


def compile_transform(transform: Transform) -> Reshape:
    """The transform as a function of a view; ``TransformError`` with all that is wrong with it."""
    flaws: list[Flaw] = []
    report = flaws.append
    steps: list[tuple[str, Step]] = []
    if transform.rename_fields:
        steps.append(("rename_fields", _rename(transform.rename_fields, report)))
    if transform.remove_fields:
        steps.append(("remove_fields", _remove(transform.remove_fields, report)))
    if transform.add_fields:
        steps.append(("add_fields", _add(transform.add_fields, report)))
    if transform.template is not None:
        steps.append(("template", _template(transform.template, report)))
    if transform.jsonata is not None:
        steps.append(("jsonata", _jsonata(transform.jsonata, report)))
    if transform.template is not None and transform.jsonata is not None:
        report(Flaw("/jsonata", "template and jsonata exclude each other; use one of them"))
    if transform.content_type is not None:
        _check_content_type(transform, report)
    if flaws:
        raise TransformError(flaws)
    return Reshape(steps, transform.content_type)


Report = Callable[[Flaw], None]


def _place(text: str, pointer: str, report: Report, *, attributes: bool = False) -> Place | None:
    try:
        return parse_place(text, attributes=attributes)
    except FieldSyntaxError as error:
        report(Flaw(pointer, str(error)))
        return None


def _bounded(pointer: str, fields: Any, report: Report) -> None:
    if len(fields) > MAX_FIELDS:
        report(Flaw(pointer, f"at most {MAX_FIELDS} fields are allowed, these are {len(fields)}"))


def _rename(fields: dict[str, str], report: Report) -> Step:
    """All are taken away first and put to their places then, so that two may change places."""
    _bounded("/rename_fields", fields, report)
    places = []
    for old, new in fields.items():
        pointer = f"/rename_fields/{escape(old)}"
        start, end = _place(old, pointer, report), _place(new, pointer, report)
        if start and end:
            places.append((start, end))

    def rename(draft: _Draft, _budget: Budget) -> None:
        taken = []
        for start, end in places:
            value = draft.read(start)
            if value is not MISSING:
                draft.remove(start)
                taken.append((start, end, value))
        for start, end, value in taken:
            try:
                draft.write(end, value)
            except Unwritable as error:
                raise Unwritable(f"{start.text} cannot become {end.text}: {error}") from None

    return rename


def _remove(fields: list[str], report: Report) -> Step:
    _bounded("/remove_fields", fields, report)
    found = [_place(field, f"/remove_fields/{i}", report) for i, field in enumerate(fields)]
    places = [place for place in found if place]

    def remove(draft: _Draft, _budget: Budget) -> None:
        for place in places:
            draft.remove(place)

    return remove


def _add(fields: dict[str, Any], report: Report) -> Step:
    """All values are made of the event as it is before the first is added."""
    _bounded("/add_fields", fields, report)
    added: list[tuple[Place, Render]] = []
    templated = False
    for field, value in fields.items():
        pointer = f"/add_fields/{escape(field)}"
        place = _place(field, pointer, report, attributes=True)
        if place is None:
            continue
        if place.root == "data":
            added.append((place, compile_value(value, report, pointer)))
        elif isinstance(value, str):
            added.append((place, _text(value, pointer, report)))
        else:
            report(Flaw(pointer, f"{place.text} takes a string, not {kind(value)}"))
        templated = templated or _holds_template(value)

    def add(draft: _Draft, budget: Budget) -> None:
        variables = draft.variables() if templated else {}
        values = [(place, render(variables, budget)) for place, render in added]
        for place, value in values:
            try:
                draft.write(place, value)
            except Unwritable as error:
                raise Unwritable(f"{place.text} cannot be written: {error}") from None

    return add


def _holds_template(value: Any) -> bool:
    if isinstance(value, str):
        return is_template(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_holds_template, parts))


def _text(template: str, pointer: str, report: Report) -> Callable[[dict[str, object], Budget], str]:
    try:
        return compile_text(template)
    except TemplateSyntaxError as error:
        report(Flaw(pointer, str(error)))
        return lambda _values, _budget: ""


def _template(template: Any, report: Report) -> Step:
    if isinstance(template, str):
        text = _text(template, "/template", report)

        def write_body(draft: _Draft, budget: Budget) -> None:
            draft.body = text(draft.variables(), budget)

        return write_body
    value = compile_value(template, report, "/template")

    def write_data(draft: _Draft, budget: Budget) -> None:
        draft.data = value(draft.variables(), budget)

    return write_data


def _jsonata(expression: str, report: Report) -> Step:
    evaluate: Evaluate
    try:
        evaluate = compile_expression(expression)
    except ExpressionSyntaxError as error:
        report(Flaw("/jsonata", str(error)))

    def restructure(draft: _Draft, budget: Budget) -> None:
        _ = draft.data  # says so if it cannot be read
        draft.data = Raw(evaluate(payload_text(draft.raw), draft.event.accepted_at // 1_000_000, budget))

    return restructure


def _check_content_type(transform: Transform, report: Report) -> None:
    value = transform.content_type or ""
    if not isinstance(transform.template, str):
        report(Flaw("/content_type", "only the output of a template that is a string has a content_type"))
    if "/" not in value or not value.isascii() or not value.isprintable() or len(value) > MAX_CONTENT_TYPE:
        report(Flaw("/content_type", f"must be a media type such as text/plain, of at most {MAX_CONTENT_TYPE} characters"))


def _checked_type(value: str) -> str:
    if not 0 < len(value.encode()) <= MAX_TYPE_BYTES or not value.isprintable():
        raise Unwritable(f"an event_type is 1 to {MAX_TYPE_BYTES} bytes of text without control characters")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    known = isinstance(error, Exhausted | ValueError | OverflowError)
    return str(error) if known and str(error) else f"{type(error).__name__}: {error}"


def _foreign(value: Any) -> Any:
    """Values of Liquid that JSON does not know: what stands for nothing, and numbers and times of its own."""
    return str(value) or None


_encode: Final = msgspec.json.Encoder(enc_hook=_foreign).encode
