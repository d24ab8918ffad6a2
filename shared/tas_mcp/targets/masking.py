"""Secrets in documents: shown as ``***`` and their last four characters, and put back where they come back so. Pure."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tas_mcp.validation import escape

Path = tuple[str | frozenset[str], ...]
"""Where in a document a secret stands: a member's name for each step, or a set of names in lower case, any of which it is
in any case; ``*`` stands for every entry of a list."""

MASK = "***"


def mask(secret: str) -> str:
    return MASK + (secret[-4:] if len(secret) > 12 else "")


def masked(document: dict[str, Any], paths: tuple[Path, ...]) -> dict[str, Any]:
    """A copy with its secrets masked. An empty one stays empty: it says that there is none."""
    return _exchanged(document, document, paths, lambda value, _: mask(value) if value else value)


def unmasked(document: dict[str, Any], stored: dict[str, Any], paths: tuple[Path, ...]) -> dict[str, Any]:
    """A copy in which every secret that came back masked, unchanged, is the stored one."""
    return _exchanged(document, stored, paths, lambda value, secrets: {mask(each): each for each in secrets}.get(value, value))


class Place(NamedTuple):
    """Where a secret stands that is a text, and not empty."""

    pointer: str
    holder: Any
    """A dict or a list."""
    key: Any

    @property
    def secret(self) -> str:
        return self.holder[self.key]  # type: ignore[no-any-return]

    def put(self, secret: str) -> None:
        self.holder[self.key] = secret


def places(document: dict[str, Any], paths: tuple[Path, ...]) -> Iterator[Place]:
    """The place of each secret."""
    for path in paths:
        found: list[tuple[str, Any]] = [("", document)]
        for step in path[:-1]:
            found = [(f"{pointer}/{escape(str(key))}", at[key]) for pointer, at in found for key, _ in _steps(at, None, step)]
        for pointer, at in found:
            for key, _ in _steps(at, None, path[-1]):
                if isinstance(at[key], str) and at[key]:
                    yield Place(f"{pointer}/{escape(str(key))}", at, key)


def _exchanged(
    document: dict[str, Any], other: dict[str, Any], paths: tuple[Path, ...], change: Callable[[str, list[str]], str]
) -> dict[str, Any]:
    """A copy in which ``change`` replaced each text on a path; it gets what stands at the same place in ``other``: one text or
    none, or all of a list, whose order does not count."""
    changed = copy.deepcopy(document)
    for path in paths:
        places: list[tuple[Any, Any]] = [(changed, other)]
        for step in path[:-1]:
            places = [(at[key], beside) for at, old in places for key, beside in _steps(at, old, step)]
        for at, old in places:
            for key, beside in _steps(at, old, path[-1]):
                if isinstance(at[key], str):
                    secrets = old if path[-1] == "*" and isinstance(old, list) else [beside]
                    at[key] = change(at[key], [each for each in secrets if isinstance(each, str) and each])
    return changed


def _steps(at: Any, other: Any, step: str | frozenset[str]) -> Iterator[tuple[Any, Any]]:
    """The keys of ``at`` that a step leads to, and what ``other`` has there."""
    if step == "*" and isinstance(at, list):
        yield from ((index, None) for index in range(len(at)))
    elif isinstance(at, dict):
        names = [name for name in at if (name == step if isinstance(step, str) else str(name).lower() in step)]
        yield from ((name, other.get(name) if isinstance(other, dict) else None) for name in names)
