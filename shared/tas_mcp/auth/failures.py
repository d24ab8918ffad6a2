"""A caller who cannot say who they are, or may not do what they try. Pure."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from tas_mcp.errors import Rejected

Reason = Literal["missing", "malformed", "unknown_key", "expired", "token", "scope"]


class AuthenticationFailed(Rejected):
    """``UNAUTHORIZED``. ``reason`` is for counting; ``name`` is who the caller pretends to be, as far as that is known."""

    def __init__(self, reason: Reason, detail: str, name: str = "") -> None:
        super().__init__("UNAUTHORIZED", detail)
        self.reason: Reason = reason
        self.name = name

    def failure(self, address: str) -> "Failure":
        """What is told of it."""
        return Failure(self.reason, self.detail, self.name, address)


class Failure(NamedTuple):
    """What is told of a failure: never the credential."""

    reason: Reason
    detail: str
    name: str
    address: str


Told = Callable[[Failure], None]
