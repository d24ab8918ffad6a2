"""What callers may do."""

import pytest

from tas_mcp.callers import ANYBODY, SCOPES, Caller
from tas_mcp.errors import Rejected


@pytest.mark.parametrize("scope", sorted(SCOPES))
def test_a_caller_may_do_what_its_scopes_say_and_an_admin_everything(scope: str) -> None:
    for scopes in ({scope}, {"admin"}, SCOPES):
        Caller("k", frozenset(scopes)).require(scope)  # type: ignore[arg-type]
    ANYBODY.require(scope)  # type: ignore[arg-type]
    with pytest.raises(Rejected, match=f"k may not do this: it needs the scope {scope}") as caught:
        Caller("k", SCOPES - {scope, "admin"}).require(scope)  # type: ignore[arg-type]
    assert caught.value.code == "FORBIDDEN"
