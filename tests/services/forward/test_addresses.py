"""Which addresses a target may have."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.forward.addresses import NAT64, SPECIAL, networks, refusal
from tas_mcp.errors import Misconfigured
from tas_mcp.networks import address

REFUSED = {
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "10.0.0.1": "private",
    "100.64.0.1": "CGNAT",
    "100.100.100.200": "CGNAT",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "168.63.129.16": "metadata",
    "169.254.169.254": "metadata",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.192": "protocols",
    "192.168.1.1": "private",
    "198.18.0.1": "benchmarks",
    "224.0.0.1": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "unspecified",
    "::1": "loopback",
    "::1%lo": "loopback",
    "::127.0.0.1": "not global",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:a9fe:a9fe": "metadata",
    "::ffff:0:10.0.0.1": "not global",
    "64:ff9b::10.0.0.1": "a wrapped 10.0.0.1, which is private",
    "64:ff9b::a9fe:a9fe": "a wrapped 169.254.169.254",
    "64:ff9b:1::8.8.8.8": "local NAT64",
    "100::1": "not global",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": "a wrapped 192.0.2.45, which is reserved",  # the example of RFC 4380
    "2001:0:7f00:1::f7f7:f7f7": "a wrapped 127.0.0.1",
    "2001:0:808:808::80ff:fffe": "a wrapped 127.0.0.1",
    "2001:db8::1": "documentation",
    "2002:7f00:1::1": "a wrapped 127.0.0.1",
    "2002:c0a8:101::1": "a wrapped 192.168.1.1",
    "fc00::1": "ULA",
    "fd00:ec2::254": "ULA",
    "fe80::1%eth0": "link-local",
    "fec0::1": "site-local",
    "ff02::1": "multicast",
    "4000::1": "not global",
}

PUBLIC = (
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "168.63.129.17",
    "172.15.255.255",
    "172.32.0.0",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2001:0:808:808::f7f7:f7f7",
    "2002:808:808::1",
    "2606:4700::1111",
    "3ffe::1",
)


@pytest.mark.parametrize(("text", "reason"), REFUSED.items())
def test_refused(text: str, reason: str) -> None:
    assert reason in (found := refusal(address(text), ()))
    assert found


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    assert refusal(address(text), ()) == ""


@pytest.mark.parametrize(
    ("allowed", "text", "fine"),
    [
        ("10.1.0.0/16", "10.1.255.255", True),
        ("10.1.0.0/16", "10.2.0.0", False),
        ("10.1.0.0/16", "::ffff:10.1.0.1", True),
        ("10.1.0.0/16", "64:ff9b::10.1.0.1", True),
        ("10.1.0.0/16", "64:ff9b::10.2.0.1", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.0/8,::1", "::1", True),
        ("fd00:1::/32", "fd00:1::5", True),
        ("fd00:1::/32", "fd00:ec2::254", False),
        ("64:ff9b:1::/48", "64:ff9b:1::10.0.0.1", True),
        ("0.0.0.0/0", "169.254.169.254", True),
        ("0.0.0.0/0", "::1", False),
        ("", "10.0.0.1", False),
    ],
)
def test_what_the_operator_opened(allowed: str, text: str, fine: bool) -> None:
    assert (refusal(address(text), networks(allowed)) == "") is fine


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_every_wrapping(inner: IPv4Address) -> None:
    bits = int(inner)
    wrapped = [
        NAT64[bits],
        IPv6Address((0x2002 << 112) | (bits << 80) | 1),
        IPv6Address((0x20010000 << 96) | (0x08080808 << 64) | (bits ^ 0xFFFFFFFF)),
        IPv6Address((0x20010000 << 96) | (bits << 64) | (0x08080808 ^ 0xFFFFFFFF)),
        address(f"::ffff:{inner}"),
    ]
    assert {bool(refusal(each, ())) for each in wrapped} == {bool(refusal(inner, ()))}


@given(st.ip_addresses())
def test_what_the_standard_library_holds_for_private_is_refused(found: IPv4Address | IPv6Address) -> None:
    if found.is_private or found.is_multicast or found.is_link_local or found.is_loopback:
        assert refusal(address(str(found)), ())


@given(st.sampled_from([network for network, _ in SPECIAL]), st.data())
def test_every_special_range_is_refused_from_end_to_end(network: IPv4Network | IPv6Network, data: st.DataObject) -> None:
    for found in (network[0], network[-1], network[data.draw(st.integers(0, network.num_addresses - 1))]):
        assert refusal(found, ())
        assert refusal(found, [network]) == ""


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.1/8", "example.com", "10.0.0.0/8;::1", "fe80::/200"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(Misconfigured, match=r"TAS_ALLOWED_NETWORKS: .*write networks like"):
        networks(f"127.0.0.1,{text}")


def test_blanks_and_empty_parts_do_not_matter() -> None:
    assert networks(" 10.0.0.0/8 ,, ::1 ") == (IPv4Network("10.0.0.0/8"), IPv6Network("::1"))
