"""Who a request comes from: the address of the connection, or what a proxy in front of us says. Pure.

Whatever a client writes into such a header stays in it, so only what trusted proxies appended counts: read from the right, the
first address that is none of theirs is the client's. One header is read, not whichever is there: a proxy that appends to one of
them hands the other on as the client wrote it.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network

from tas_mcp.networks import Address, Network, address

HEADERS = ("x-forwarded-for", "forwarded")
MAX_HOPS = 16
REMEMBERED = 4096

_FOR = re.compile(r'(?:^|;)\s*for="?(\[[^]"]*]|[^:;"]+)', re.IGNORECASE).search


class Origin:
    """Believes the ``header`` (lower case, one of ``HEADERS``) of requests that come from ``trusted`` networks."""

    def __init__(self, trusted: Sequence[Network] = (), header: str = "x-forwarded-for") -> None:
        self._trusted = tuple(trusted)
        self.header = header if trusted else ""
        """The header that is read; empty: none."""
        self.client = lru_cache(maxsize=REMEMBERED)(self._client)
        """The client's address as text, of the connection's address and the value of the header."""

    def of(self, peer: str, headers: Iterable[tuple[str | bytes, str | bytes]]) -> str:
        """The client's address, of a request with these headers or gRPC metadata; see ``client``."""
        said = [value for name, value in headers if isinstance(name, str) and name.lower() == self.header] if self.header else ()
        return self.client(peer, ",".join(map(str, said)))

    def _client(self, peer: str, value: str) -> str:
        try:
            found = address(peer)
        except ValueError:  # a Unix socket has none
            return peer
        if self.header:
            for hop in reversed(value.split(",")[-MAX_HOPS:]):
                if not self._trusts(found) or (said := self._hop(hop.strip())) is None:
                    break
                found = said
        return str(found)

    def _trusts(self, given: Address) -> bool:
        return any(given in network for network in self._trusted)

    def _hop(self, text: str) -> Address | None:
        if self.header == "forwarded":
            named = _FOR(text)
            text = named.group(1) if named else ""
        elif text.count(":") == 1:  # IPv4 with a port
            text = text.partition(":")[0]
        try:
            return address(text[1:].partition("]")[0] if text.startswith("[") else text)
        except ValueError:
            return None


@lru_cache(maxsize=REMEMBERED)
def subscriber(client: str) -> str:
    """What stands for one subscriber: an IPv4 address, or the /64 of an IPv6 one, of which everybody has 2^64."""
    try:
        found = address(client)
    except ValueError:
        return client
    return str(IPv6Network((int(found) >> 64 << 64, 64))) if isinstance(found, IPv6Address) else client
