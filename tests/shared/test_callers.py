"""What callers may do."""

import pytest

from tas_mcp.callers import ANYBODY, SCOPES, Caller, Scope
from tas_mcp.errors import Rejected

SHOP = Caller("shop/1", frozenset(("events:write",)), ("order.*", "stock.low"), ("shop-?",))


@pytest.mark.parametrize("scope", sorted(SCOPES))
def test_admin_may_do_everything_and_others_what_their_scopes_say(scope: Scope) -> None:
    Caller("a", frozenset(("admin",))).require(scope)
    ANYBODY.require(scope)
    Caller("a", frozenset((scope,))).require(scope)
    with pytest.raises(Rejected, match=f"^a may not do this: it needs the scope {scope}$") as caught:
        Caller("a", SCOPES - {scope, "admin"}).require(scope)
    assert caught.value.code == "FORBIDDEN"


@pytest.mark.parametrize(
    ("event_type", "source", "refused"),
    [
        ("order.created", "shop-1", ""),
        ("order.a.b", "shop-2", ""),
        ("stock.low", "shop-1", ""),
        ("stock.lower", "shop-1", "shop/1 may not send the event type 'stock.lower': it may send order.*, stock.low"),
        ("reorder.x", "shop-1", "shop/1 may not send the event type 'reorder.x': it may send order.*, stock.low"),
        ("order.created", "shop-10", "shop/1 may not send the source 'shop-10': it may send shop-?"),
    ],
)
def test_a_caller_with_patterns(event_type: str, source: str, refused: str) -> None:
    assert SHOP.restricted
    assert SHOP.covers(event_type, source) is (not refused)
    if not refused:
        SHOP.admit(event_type, source)
        return
    with pytest.raises(Rejected) as caught:
        SHOP.admit(event_type, source)
    assert (caught.value.code, caught.value.detail) == ("FORBIDDEN", refused)


def test_a_caller_without_patterns_has_to_do_with_all() -> None:
    assert not ANYBODY.restricted
    assert ANYBODY.covers("any", "thing")
    ANYBODY.admit("any", "thing")
