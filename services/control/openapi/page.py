"""The page that shows the document: one HTML text with its own style and script in it, so that there is nothing else to load; the
browser is told so by a Content-Security-Policy that names their hashes."""

import base64
import hashlib
from importlib import resources
from typing import NamedTuple


class Page(NamedTuple):
    """``policy`` is the Content-Security-Policy to be sent with ``html``."""

    html: bytes
    policy: str


def page() -> Page:
    style, script = _read("page.css"), _read("page.js")
    html = _read("page.html").replace("/*style*/", style).replace("/*script*/", script)
    directives = {
        "default-src": "'none'",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return Page(html.encode(), "; ".join(f"{name} {value}" for name, value in directives.items()))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
