"""Which addresses a target may have: none that leads into the operator's own networks, unless the operator opened it. Pure.

The ranges are those of IANA's special-purpose address registries (RFC 6890), and those from which clouds serve metadata. An
IPv6 address that carries an IPv4 one (mapped, NAT64, 6to4, Teredo) is judged by that too: a packet to it ends there.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

from tas_mcp.networks import Address, Network, read

_NAMED = (
    ("0.0.0.0/8", "unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a carrier (CGNAT)"),
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "a cloud's metadata service"),
    ("169.254.0.0/16", "link-local (clouds' metadata services)"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved for protocols"),
    ("192.0.2.0/24", "reserved for documentation"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "reserved for benchmarks"),
    ("198.51.100.0/24", "reserved for documentation"),
    ("203.0.113.0/24", "reserved for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("64:ff9b:1::/48", "local NAT64"),
    ("2001:db8::/32", "reserved for documentation"),
    ("3fff::/20", "reserved for documentation"),
    ("fc00::/7", "private (ULA)"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "private (site-local)"),
    ("ff00::/8", "multicast"),
)
_TEREDO = IPv6Network("2001::/32")
SPECIAL: tuple[tuple[Network, str], ...] = (
    *((ip_network(network), name) for network, name in _NAMED),
    *((rest, "reserved for protocols") for rest in IPv6Network("2001::/23").address_exclude(_TEREDO)),
)
NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are an IPv4 address."""
GLOBAL = IPv6Network("2000::/3")
"""All that is given out of IPv6 (RFC 4291)."""


def networks(text: str) -> tuple[Network, ...]:
    """The networks that the operator opened: see ``tas_mcp.networks.read``."""
    return read(text, "TAS_ALLOWED_NETWORKS")


def refusal(given: Address, allowed: Sequence[Network]) -> str:
    """What is wrong with an address, or ``""``: a network that was ``allowed`` has nothing wrong."""
    if any(given in network for network in allowed):
        return ""
    for network, name in SPECIAL:
        if given in network:
            return name
    if isinstance(given, IPv4Address):
        return ""
    carried = _carried(given)
    for inner in carried:
        if name := refusal(inner, allowed):
            return f"a wrapped {inner}, which is {name}"
    return "" if carried or given in GLOBAL else "not global"


def _carried(given: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that an IPv6 address is made of: for Teredo its server and its client."""
    if given in NAT64:
        return (IPv4Address(int(given) & 0xFFFFFFFF),)
    return given.teredo or ((given.sixtofour,) if given.sixtofour else ())
