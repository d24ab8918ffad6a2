"""Addresses and networks, as settings and systems write them. Pure."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from tas_mcp.errors import Misconfigured

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def read(text: str, setting: str) -> tuple[Network, ...]:
    """Networks that are separated by commas.

    Raises:
        Misconfigured: one is none; the text names the setting.
    """
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        try:
            found.append(ip_network(part))
        except ValueError as error:
            raise Misconfigured(f"{setting}: {error}; write networks like 10.1.0.0/16,fd00:1::/32") from None
    return tuple(found)


def address(text: str) -> Address:
    """An address as the system writes it, without its zone; an IPv4-mapped one is the IPv4 address that it stands for.

    Raises:
        ValueError: it is none.
    """
    found = ip_address(text.partition("%")[0])
    return (isinstance(found, IPv6Address) and found.ipv4_mapped) or found
