"""Texts in a target's document that may depend on the event: a Liquid template (as in transforms), or just a text. Pure."""

import re
from collections.abc import Callable
from operator import attrgetter

from tas_mcp.errors import Flaw
from tas_mcp.messages import Event
from tas_mcp.routing import Transform, TransformError, TransformFailed, View, compile_transform, is_template

_MEMBER = re.compile(r"\{\{\s*event\.(event_id|event_type|source)\s*\}\}")

Render = Callable[[Event], str]
"""Raises ``TransformFailed``."""


def compile_text(text: str) -> Render:
    """What a text says of an event.

    Raises:
        TransformError: it is a template that does not compile.
    """
    if not is_template(text):
        return lambda _: text
    if member := _MEMBER.fullmatch(text):  # the usual ones, a hundred times faster than a template
        return attrgetter(member[1])
    reshape = compile_transform(Transform(template=text))

    def render(event: Event) -> str:
        return reshape(View(event)).body or ""

    return render


def text_flaws(text: str, pointer: str, accepts: Callable[[str], bool], form: str) -> list[Flaw]:
    """What is wrong with a text that must become something ``accepts`` takes; ``form`` says what."""
    if not is_template(text):
        return [] if accepts(text) else [Flaw(pointer, form)]
    try:
        compile_text(text)
    except TransformError as error:
        return [Flaw(pointer, flaw.detail) for flaw in error.flaws]
    return []


def rendered(render: Render, event: Event, accepts: Callable[[str], bool], what: str) -> str:
    """The text for an event.

    Raises:
        ValueError: it cannot be told, or is not what must be.
    """
    try:
        found = render(event).strip()
    except TransformFailed as error:
        raise ValueError(f"{what}: {error}") from None
    if not accepts(found):
        raise ValueError(f"{what}: its template gave {found[:100]!r}, which is none")
    return found
