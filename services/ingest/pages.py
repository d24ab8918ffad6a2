"""Which web pages may open a stream of events, or send events over one. Pure.

A browser lets every page open a WebSocket to any address, and says only in ``Origin`` which page it is (RFC 6455 10.2). Where
nobody has to say who they are, a foreign page could so read and send events of a gateway on the visitor's own machine. It may
even make its own name lead there (DNS rebinding), by which ``Origin`` and ``Host`` agree; a name is therefore not trusted unless
it is listed, an address is.
"""

from collections.abc import Mapping, Set
from ipaddress import ip_address
from urllib.parse import urlsplit

from tas_mcp.errors import Rejected

ANY = "*"
SETTING = "TAS_ALLOWED_ORIGINS"


def listed(setting: str) -> frozenset[str]:
    """The origins (``https://app.example:8443``) in a list with commas; ``*`` is any."""
    return frozenset(origin.strip().rstrip("/").lower() for origin in setting.split(",") if origin.strip())


def check(headers: Mapping[str, str], allowed: Set[str], *, local: bool) -> dict[str, str]:
    """Refuse a request of a foreign page. ``local`` says that the connection never left the machine. What is returned are the
    headers of an answer that the page may read (Fetch Standard 3.3).

    Raises:
        Rejected: ``FORBIDDEN``.
    """
    origin, host = headers.get("Origin", "").lower(), headers.get("Host", "").lower()
    readable = {"Access-Control-Allow-Origin": headers.get("Origin", ""), "Vary": "Origin"} if origin else {}
    if ANY in allowed or origin in allowed:
        return readable
    if origin and not (_sure(origin) and origin.partition("://")[2] == host):
        raise Rejected("FORBIDDEN", f"pages of {origin[:200]!r} may not do this: list the origin in {SETTING}")
    if local and not origin and not (_sure(f"//{host}") or {f"http://{host}", f"https://{host}"} & allowed):
        raise Rejected("FORBIDDEN", f"Host {host[:200]!r} is not this machine: list http://{host[:200]} in {SETTING}")
    return readable


def _sure(url: str) -> bool:
    """Whether its host is an address or ``localhost``, which nobody else can lead elsewhere."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or bool(ip_address(host))
    except ValueError:
        return False
