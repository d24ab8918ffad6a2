"""Who is let in by what a service was told at its start."""

from typing import Any

import pytest

from tas_mcp.auth import Authentication, AuthenticationFailed, Failure
from tas_mcp.broker import Connection
from tas_mcp.callers import ANYBODY
from tas_mcp.errors import Misconfigured
from tas_mcp.settings import PublicSettings

ADMIN = "an-admin-key-of-at-least-32-characters"


def authentication(**settings: Any) -> Authentication:
    """Without a broker: only what needs no stored key."""
    return Authentication(Connection([], "test"), PublicSettings(**settings))


@pytest.mark.parametrize("settings", [{"admin_key": ADMIN}, {"auth": "keys"}, {"auth": "none"}, {"tls_callers": "a = admin"}])
def test_others_may_reach_it_once_it_is_said_who_may_come_in(settings: dict[str, str]) -> None:
    authentication(host="0.0.0.0", **settings)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.1.2.3", "gateway.example"])
def test_others_may_not_reach_it_before(host: str) -> None:
    with pytest.raises(Misconfigured, match=r"TAS_ADMIN_KEY_FILE.*TAS_AUTH=keys.*TAS_AUTH=none"):
        authentication(host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_this_machine_alone_it_starts_and_asks_for_keys(host: str) -> None:
    with pytest.raises(AuthenticationFailed):
        authentication(host=host).identify("")


def test_a_bootstrap_key_that_could_be_guessed() -> None:
    with pytest.raises(Misconfigured) as caught:
        authentication(admin_key="planted-secret")
    assert caught.value.detail.startswith("TAS_ADMIN_KEY_FILE: the key has 14 characters, and needs 32 or more")
    assert "planted-secret" not in caught.value.detail


def test_where_keys_are_off_anybody_comes_in_with_anything() -> None:
    off = authentication(auth="none")
    assert off.identify("wrong") is ANYBODY
    assert off.caller([("Authorization", "Basic eDp5")]) is ANYBODY


def test_a_certificate_stands_for_who_comes_without_a_credential() -> None:
    auth = authentication(admin_key=ADMIN, tls_callers="shop.example = events:write")
    shop = auth.caller([], "10.0.0.1", ("spiffe://example/shop", "shop.example"))
    assert (shop.name, set(shop.scopes)) == ("cert:shop.example", {"events:write"})
    assert auth.caller([("X-API-Key", ADMIN)], "10.0.0.1", ("shop.example",)).name == "bootstrap"
    for headers, names in (([], ("other.example",)), ([], ()), ([("X-API-Key", "wrong")], ("shop.example",))):
        with pytest.raises(AuthenticationFailed):
            auth.caller(headers, "10.0.0.1", names)


def test_the_bootstrap_key_may_do_everything() -> None:
    caller = authentication(admin_key=ADMIN).caller([("Authorization", f"Bearer {ADMIN}")])
    assert caller.name == "bootstrap"
    caller.require("admin")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "missing"),
        ([("X-API-Key", "planted-secret")], "malformed"),
        ([("Authorization", "Basic planted-secret")], "malformed"),
        ([("X-API-Key", ADMIN[:-1])], "malformed"),
    ],
)
def test_each_failure_is_told_without_the_credential(headers: list[tuple[str, str]], reason: str) -> None:
    told: list[Failure] = []
    asking = authentication(admin_key=ADMIN)
    asking.told = told.append
    with pytest.raises(AuthenticationFailed) as caught:
        asking.caller(headers, "192.0.2.1")
    [failure] = told
    assert (failure.reason, failure.address, failure.detail) == (reason, "192.0.2.1", caught.value.detail)
    assert "planted-secret" not in str(failure)
