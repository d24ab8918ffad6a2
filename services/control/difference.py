"""What changed from one document to another, as a list of changes. Pure.

Lists that grew or shrank are compared from both ends, so that a rule put in front of others is one change and not many.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from tas_mcp.validation import escape

_ABSENT: Any = object()


class Side(NamedTuple):
    """A document: as it is, by which it is compared, and as people may see it, of the same form but with its secrets masked."""

    real: Any
    shown: Any

    def at(self, key: Any) -> "Side":
        return Side(self.real[key], self.shown[key])

    def member(self, key: str) -> "Side":
        return self.at(key) if key in self.real else NOTHING


NOTHING = Side(_ABSENT, _ABSENT)


def difference(before: Side, after: Side) -> list[dict[str, Any]]:
    """``{"op": "add" | "remove" | "replace", "pointer", "before"?, "after"?}`` for each place that differs. The pointer of what
    was removed leads into the document before, all others into the one after."""
    return list(_changes(before, after, ""))


def _changes(before: Side, after: Side, pointer: str) -> Iterator[dict[str, Any]]:
    if before is after is NOTHING:
        return
    if before is NOTHING:
        yield {"op": "add", "pointer": pointer, "after": after.shown}
    elif after is NOTHING:
        yield {"op": "remove", "pointer": pointer, "before": before.shown}
    elif isinstance(before.real, dict) and isinstance(after.real, dict):
        for key in [*before.real, *(key for key in after.real if key not in before.real)]:
            yield from _changes(before.member(key), after.member(key), f"{pointer}/{escape(key)}")
    elif isinstance(before.real, list) and isinstance(after.real, list):
        yield from _list_changes(before, after, pointer)
    elif before.real != after.real or type(before.real) is not type(after.real):
        yield {"op": "replace", "pointer": pointer, "before": before.shown, "after": after.shown}


def _list_changes(before: Side, after: Side, pointer: str) -> Iterator[dict[str, Any]]:
    shorter = min(len(before.real), len(after.real))
    head = _alike(before.real, after.real, shorter)
    tail = _alike(before.real[::-1], after.real[::-1], shorter - head)
    common = range(head, shorter - tail)
    for index in common:
        yield from _changes(before.at(index), after.at(index), f"{pointer}/{index}")
    for index in range(common.stop, len(before.real) - tail):
        yield from _changes(before.at(index), NOTHING, f"{pointer}/{index}")
    for index in range(common.stop, len(after.real) - tail):
        yield from _changes(NOTHING, after.at(index), f"{pointer}/{index}")


def _alike(one: list[Any], other: list[Any], most: int) -> int:
    """How many of the first ``most`` elements are the same, to the letter: Python finds False equal to 0."""
    return next((index for index in range(most) if _text(one[index]) != _text(other[index])), most)


def _text(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")
