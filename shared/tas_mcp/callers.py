"""Who calls, and what they may do. Pure."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

from msgspec import Struct

from tas_mcp.errors import Rejected
from tas_mcp.routing.patterns import Pattern, glob

Scope = Literal["events:write", "events:read", "targets:read", "targets:write", "admin"]

SCOPES: frozenset[str] = frozenset(get_args(Scope))
REMEMBERED = 1024
"""How many compiled patterns are kept."""


class Caller(Struct, frozen=True):
    """``name`` is what logs and the audit log show: a key's name and id, a token's subject, a certificate's name.

    ``event_types`` and ``sources`` are globs, as in rules: the caller has to do only with events whose type and whose source each
    match one of them; with all where there are none.
    """

    name: str
    scopes: frozenset[str]
    event_types: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def may(self, scope: Scope) -> bool:
        """``admin`` may do everything."""
        return scope in self.scopes or "admin" in self.scopes

    def require(self, scope: Scope) -> None:
        """
        Raises:
            Rejected: ``FORBIDDEN``.
        """
        if not self.may(scope):
            raise Rejected("FORBIDDEN", f"{self.name} may not do this: it needs the scope {scope}")

    @property
    def restricted(self) -> bool:
        """Whether there are events that it has nothing to do with."""
        return bool(self.event_types or self.sources)

    def covers(self, event_type: str, source: str) -> bool:
        """Whether it has to do with such an event."""
        return _any(self.event_types, event_type) and _any(self.sources, source)

    def admit(self, event_type: str, source: str) -> None:
        """Refuse an event that it has nothing to do with.

        Raises:
            Rejected: ``FORBIDDEN``, naming the patterns.
        """
        for what, patterns, value in (("event type", self.event_types, event_type), ("source", self.sources, source)):
            if not _any(patterns, value):
                raise Rejected("FORBIDDEN", f"{self.name} may not send the {what} {value!r}: it may send {', '.join(patterns)}")


ANYBODY = Caller("anonymous", SCOPES)
"""The caller where nobody has to say who they are."""


def _any(patterns: Sequence[str], text: str) -> bool:
    return not patterns or any(_compiled(pattern).test(text) for pattern in patterns)


@lru_cache(REMEMBERED)
def _compiled(pattern: str) -> Pattern:
    return glob(pattern)
