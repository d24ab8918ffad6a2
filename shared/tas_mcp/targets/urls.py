"""What a URL, a header's name and a header's value must be so that a request can be made of them."""

from urllib.parse import urlsplit

from tas_mcp.errors import Flaw

OWN_HEADERS = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "webhook-id", "webhook-timestamp", "webhook-signature")
)


def url_flaws(text: str, pointer: str) -> list[Flaw]:
    try:
        url = urlsplit(text)
        port = url.port
        (url.hostname or "").encode("idna")
    except ValueError:  # whose text shows a part, which may be a password
        return [Flaw(pointer, "is no URL: its host or its port is none")]
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        return [Flaw(pointer, "must be http://host[:port]/path or https://...")]
    if not text.isprintable() or " " in text:
        return [Flaw(pointer, "must not contain blanks or control characters")]
    if url.username is not None or url.password is not None:
        return [Flaw(pointer, "must not contain user and password beside config.authentication")]
    return []


def path_flaws(text: str, pointer: str) -> list[Flaw]:
    if not text.startswith("/") or text.startswith("//") or not text.isprintable() or " " in text or "#" in text:
        return [Flaw(pointer, "must be a path like /healthz, without blanks")]
    return []


def header_name_flaw(name: str) -> str:
    if not name or not name.isascii() or not all(c.isalnum() or c in "!#$%&'*+-.^_`|~" for c in name):
        return "is no header name"
    return "is set by the gateway itself" if name.lower() in OWN_HEADERS else ""


def header_value_flaw(value: str) -> str:
    return "the value must not contain control characters" if any(ord(c) < 32 or ord(c) == 127 for c in value) else ""
