"""Whom the names in a certificate stand for."""

import pytest

from tas_mcp.auth.certificates import Certified
from tas_mcp.errors import Misconfigured

SETTING = "spiffe://example.org/shop/* = events:write events:read, *.ops.example.org=admin,  a=b = targets:read,"


@pytest.mark.parametrize(
    ("names", "name", "scopes"),
    [
        (("spiffe://example.org/shop/1",), "spiffe://example.org/shop/1", {"events:write", "events:read"}),
        (("localhost", "night.ops.example.org"), "night.ops.example.org", {"admin"}),
        (("a=b",), "a=b", {"targets:read"}),
        (
            ("day.ops.example.org", "spiffe://example.org/shop/x/y"),
            "spiffe://example.org/shop/x/y",
            {"events:write", "events:read"},
        ),
    ],
)
def test_the_first_entry_that_matches_a_name_decides(names: tuple[str, ...], name: str, scopes: set[str]) -> None:
    caller = Certified(SETTING).caller(names)
    assert caller is not None
    assert (caller.name, set(caller.scopes)) == (f"cert:{name}", scopes)


@pytest.mark.parametrize(
    "names", [(), ("spiffe://example.org/shop",), ("xspiffe://example.org/shop/1",), ("ops.example.org",), ("A=B",), ("",)]
)
def test_other_names_stand_for_nobody(names: tuple[str, ...]) -> None:
    assert Certified(SETTING).caller(names) is None
    assert Certified("").caller(names) is None


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("spiffe://example.org/shop", "is no `name = scope scope ...`"),
        ("= admin", "is no `name"),
        ("a =", "is no `name"),
        ("a = admin, b = root", "unknown scope 'root'"),
        ("x" * 513 + " = admin", "at most 512"),
    ],
)
def test_a_setting_that_cannot_be_read_stops_the_start(setting: str, said: str) -> None:
    with pytest.raises(Misconfigured, match="TAS_TLS_CALLERS") as caught:
        Certified(setting)
    assert said in caught.value.detail
