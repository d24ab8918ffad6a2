"""The guard against server-side request forgery: what a host that a target names may resolve to.

Every connection of every target type goes to an address that came from here, never to a name: a name that is asked twice may
have two answers (DNS rebinding). Redirects are followed by nobody.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import aiohappyeyeballs

from services.forward.addresses import refusal
from services.forward.verdict import Failed, Refused
from tas_mcp.networks import Address, Network, address

AddrInfo = aiohappyeyeballs.AddrInfoType
Lookup = Callable[[str, int], Awaitable[Sequence[AddrInfo]]]

BROKER_PORT = 4222
BROKER_SECONDS = 30.0
"""How long what the broker's own names resolve to is believed."""


async def lookup(host: str, port: int) -> Sequence[AddrInfo]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


class Guard:
    """Resolves the hosts of targets. ``allowed`` are the networks that the operator opened; ``broker`` the URLs of our own
    broker, which is no target even there, and ``peers`` says those of its cluster."""

    def __init__(
        self,
        allowed: Sequence[Network] = (),
        broker: Sequence[str] = (),
        lookup: Lookup = lookup,
        peers: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._allowed = tuple(allowed)
        self._broker = tuple(broker)
        self._peers = peers
        self._lookup = lookup
        self._broker_asked: tuple[str, ...] = ()
        self._broker_addresses: dict[tuple[str, int], set[Address]] = {}
        self._broker_asked_at = float("-inf")

    async def resolve(self, host: str, port: int) -> Sequence[AddrInfo]:
        """What ``getaddrinfo`` says, without what must not be connected to; at least one. The caller bounds the time.

        Raises:
            OSError, UnicodeError: there is no such name.
            Failed: it resolves to nothing that is allowed. A name may get another address, so that is no end.
            Refused: the same for an address, which stays what it is.
        """
        found = await self._lookup(host, port)
        await self._find_broker()
        reasons = {each[4][0]: self._reason(address(str(each[4][0])), port) for each in found}
        kept = [each for each in found if not reasons[each[4][0]]]
        if kept:
            return kept
        detail = "; ".join(f"{each} is {reason}" for each, reason in reasons.items())
        if _is_address(host):
            raise Refused(0, f"no connection to {host}:{port}: {detail}")
        raise Failed(0, f"no connection to {host}:{port}: of its addresses {detail}")

    def _reason(self, given: Address, port: int) -> str:
        if self._is_broker(given, port):
            return "this gateway's own broker"
        name = refusal(given, self._allowed)
        return f"{name}, which TAS_ALLOWED_NETWORKS does not open" if name else ""

    def _is_broker(self, given: Address, port: int) -> bool:
        """A broker on one address of this machine is most often on all of its loopback ones, to which 0.0.0.0 leads too."""
        known = {each for (_, own), found in self._broker_addresses.items() if own == port for each in found}
        here = given.is_loopback or given.is_unspecified
        return given in known or (here and any(each.is_loopback for each in known))

    async def _find_broker(self) -> None:
        urls = (*self._broker, *self._peers())
        if urls == self._broker_asked and time.monotonic() - self._broker_asked_at < BROKER_SECONDS:
            return
        for host, port in map(_host_and_port, urls):
            try:
                found = await self._lookup(host, port)
            except (OSError, UnicodeError):  # what is known of it stays
                continue
            self._broker_addresses[host, port] = {address(str(each[4][0])) for each in found}
        self._broker_asked, self._broker_asked_at = urls, time.monotonic()


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url.strip() if "://" in url else f"nats://{url.strip()}")
    return parts.hostname or "", parts.port or BROKER_PORT


def _is_address(host: str) -> bool:
    """Whether it is an address in any spelling that the system takes, ``0x7f.1`` and ``2130706433`` too."""
    try:
        socket.inet_aton(host)
    except OSError:
        return ":" in host
    return True
