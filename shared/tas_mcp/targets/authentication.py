"""How a target over HTTP is told who calls: the ``authentication`` of its document."""

from typing import Literal

from msgspec import Struct, field

from tas_mcp.errors import Flaw
from tas_mcp.targets.urls import header_name_flaw, header_value_flaw, url_flaws

POINTER = "/config/authentication"


class Unauthenticated(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="none"):
    """It is not told."""

    def flaws(self) -> list[Flaw]:
        return []


class Bearer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="bearer"):
    """A token that does not change (RFC 6750)."""

    token: str

    def flaws(self) -> list[Flaw]:
        return _flaw("token", header_value_flaw(self.token) or ("" if self.token else "must not be empty"))


class Basic(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="basic"):
    """User and password (RFC 7617, in UTF-8)."""

    username: str
    password: str

    def flaws(self) -> list[Flaw]:
        colon = "must not contain a colon" if ":" in self.username else ""
        return [
            *_flaw("username", header_value_flaw(self.username) or colon),
            *_flaw("password", header_value_flaw(self.password)),
        ]


class ApiKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="api_key"):
    """A key in a header or in the query."""

    key: str
    name: str = "X-API-Key"
    place: Literal["header", "query"] = field(default="header", name="in")

    def flaws(self) -> list[Flaw]:
        name = header_name_flaw(self.name) if self.place == "header" else ("" if self.name else "must not be empty")
        return [*_flaw("name", name), *_flaw("key", header_value_flaw(self.key) or ("" if self.key else "must not be empty"))]


class OAuth2(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="oauth2"):
    """A token that is asked for with client credentials (RFC 6749 4.4). ``audience`` is no part of that, but often wanted."""

    token_url: str
    client_id: str
    client_secret: str
    scope: str = ""
    audience: str = ""
    token_endpoint_auth_method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    """As RFC 7591 names it."""

    def flaws(self) -> list[Flaw]:
        return url_flaws(self.token_url, f"{POINTER}/token_url") + _flaw(
            "client_id", "" if self.client_id else "must not be empty"
        )


Authentication = Unauthenticated | Bearer | Basic | ApiKey | OAuth2
SECRETS = frozenset(("token", "password", "key", "client_secret"))
"""The members that nobody may read back."""


def _flaw(member: str, detail: str) -> list[Flaw]:
    return [Flaw(f"{POINTER}/{member}", detail)] if detail else []
