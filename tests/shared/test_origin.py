"""Who a request comes from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp import networks
from tas_mcp.errors import Misconfigured
from tas_mcp.origin import Origin, subscriber

PROXIES = networks.read("10.0.0.0/8, fd00::/8", "TAS_TRUSTED_PROXIES")
BELIEVING = Origin(PROXIES)
RFC7239 = Origin(PROXIES, "forwarded")


@pytest.mark.parametrize(
    ("peer", "value", "client"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # nobody we trust says so
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),  # what the client wrote itself
        ("10.0.0.1", "198.51.100.1,10.0.0.3 , 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3,10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", "[2001:db8::1]:443", "2001:db8::1"),
        ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("fd00::1%eth0", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, ", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, evil, 10.0.0.2", "10.0.0.2"),
        ("", "198.51.100.1", ""),
    ],
)
def test_the_rightmost_that_is_no_proxy(peer: str, value: str, client: str) -> None:
    assert BELIEVING.client(peer, value) == client


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=198.51.100.1", "198.51.100.1"),
        ('proto=https; For="198.51.100.1:4711";by=10.0.0.1', "198.51.100.1"),
        ('for=1.1.1.1, for="[2001:db8::1]:443"', "2001:db8::1"),
        ("for=1.1.1.1, for=_hidden", "10.0.0.1"),
        ('for=", for=198.51.100.1', "198.51.100.1"),  # a quote that the client left open
        ("notfor=198.51.100.1", "10.0.0.1"),
        ("198.51.100.1", "10.0.0.1"),
    ],
)
def test_the_header_of_rfc_7239(value: str, client: str) -> None:
    assert RFC7239.client("10.0.0.1", value) == client


def test_without_trusted_proxies_no_header_is_read() -> None:
    origin = Origin()
    assert (origin.header, origin.client("10.0.0.1", "198.51.100.1")) == ("", "10.0.0.1")


def test_the_header_is_read_under_any_case_and_in_all_its_lines() -> None:
    headers: list[tuple[str | bytes, str | bytes]] = [
        ("Host", "a"),
        ("X-Forwarded-For", "1.1.1.1"),
        ("x-forwarded-for", "198.51.100.1"),
        ("trace-bin", b"\xff"),
    ]
    assert BELIEVING.of("10.0.0.1", headers) == "198.51.100.1"
    assert Origin().of("10.0.0.1", headers) == RFC7239.of("10.0.0.1", headers) == "10.0.0.1"


@given(st.text(), st.sampled_from([BELIEVING, RFC7239]))
def test_whatever_the_client_writes_what_the_proxy_appends_counts(junk: str, origin: Origin) -> None:
    said = "198.51.100.1" if origin is BELIEVING else "for=198.51.100.1"
    assert origin.client("10.0.0.1", f"{junk}, {said}") == "198.51.100.1"


def test_an_ipv6_subscriber_is_a_network() -> None:
    assert subscriber("2001:db8:1:2:3:4:5:6") == subscriber("2001:db8:1:2::") == "2001:db8:1:2::/64"
    assert subscriber("2001:db8:1:3::") != subscriber("2001:db8:1:2::")
    assert (subscriber("198.51.100.1"), subscriber("")) == ("198.51.100.1", "")


def test_what_is_no_network_names_the_setting() -> None:
    with pytest.raises(Misconfigured, match=r"TAS_TRUSTED_PROXIES: .*write networks like"):
        networks.read("10.0.0.1/8", "TAS_TRUSTED_PROXIES")
