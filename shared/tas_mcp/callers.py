"""Who calls, and what they may do. Pure."""

from typing import Literal, get_args

from msgspec import Struct

from tas_mcp.errors import Rejected

Scope = Literal["events:write", "events:read", "targets:read", "targets:write", "admin"]

SCOPES: frozenset[str] = frozenset(get_args(Scope))


class Caller(Struct, frozen=True):
    """``name`` is what logs and the audit log show: a key's id, a token's subject, a certificate's name."""

    name: str
    scopes: frozenset[str]

    def require(self, scope: Scope) -> None:
        """``admin`` may do everything.

        Raises:
            Rejected: ``FORBIDDEN``.
        """
        if scope not in self.scopes and "admin" not in self.scopes:
            raise Rejected("FORBIDDEN", f"{self.name} may not do this: it needs the scope {scope}")


ANYBODY = Caller("anonymous", SCOPES)
"""The caller where nobody has to say who they are."""
