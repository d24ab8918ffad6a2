"""Callers by the names in their client certificates, as the setting ``tls_callers`` says. Pure.

    spiffe://example.org/shop/* = events:write events:read, ops.example.org = admin

Entries stand between commas: a glob of names (see ``tas_mcp.routing.patterns``), and scopes. The first entry that one of a
certificate's names matches decides.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple, cast

from tas_mcp.callers import SCOPES, Caller, Scope
from tas_mcp.errors import Misconfigured
from tas_mcp.routing.patterns import Pattern, glob

PREFIX = "cert:"
"""Before the name of a caller who is known by a certificate."""
REMEMBERED = 4096


class _Entry(NamedTuple):
    pattern: Pattern
    scopes: frozenset[Scope]


class Certified:
    """Knows whom a certificate stands for."""

    def __init__(self, setting: str) -> None:
        """
        Raises:
            Misconfigured: the setting cannot be read; the text says where.
        """
        self._entries = tuple(_entries(setting))
        self.caller = lru_cache(REMEMBERED)(self._caller)
        """The caller with these names; None where they stand for nobody."""

    def _caller(self, names: tuple[str, ...]) -> Caller | None:
        for entry in self._entries:
            for name in names:
                if entry.pattern.test(name):
                    return Caller(PREFIX + name, entry.scopes)
        return None


def _entries(setting: str) -> Iterator[_Entry]:
    for text in filter(None, map(str.strip, setting.split(","))):
        name, equals, scopes = (part.strip() for part in text.rpartition("="))
        given = frozenset(scopes.split())
        if not (equals and name and given):
            raise Misconfigured(f"TAS_TLS_CALLERS: {text!r} is no `name = scope scope ...`")
        if unknown := sorted(given - SCOPES):
            raise Misconfigured(f"TAS_TLS_CALLERS: {text!r}: unknown scope {unknown[0]!r}; there are {', '.join(sorted(SCOPES))}")
        try:
            yield _Entry(glob(name), cast(frozenset[Scope], given))
        except ValueError as error:
            raise Misconfigured(f"TAS_TLS_CALLERS: {text!r}: {error}") from None
