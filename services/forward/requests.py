"""The heads of requests. Pure."""

from collections.abc import Mapping
from urllib.parse import quote, urlencode, urlsplit

_PATH_SAFE = "/%:@!$&'()*+,;=-._~?[]"


def request_head(method: str, url: str, headers: Mapping[str, str], query: Mapping[str, str] | None = None) -> bytes:
    """The part of a request's head that is the same for every one. Names and values were checked when the target was saved;
    ``query`` is added to the URL's."""
    parts = urlsplit(url)
    asked = "&".join(filter(None, (quote(parts.query, safe=_PATH_SAFE), urlencode(query or {}, quote_via=quote))))
    path = quote(parts.path or "/", safe=_PATH_SAFE) + (f"?{asked}" if asked else "")
    host = parts.netloc.rpartition("@")[2]
    try:
        host = host.encode("idna").decode()
    except UnicodeError:  # a name that cannot be one: connecting will say so
        host = quote(host, safe=_PATH_SAFE)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n").encode()
