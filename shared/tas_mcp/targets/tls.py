"""Certificates in documents: what is checked of them here is their form, as loading them is no pure work."""

import base64
import binascii
import re
from typing import Literal

from msgspec import Struct

from tas_mcp.errors import Flaw

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}|[0-9A-Fa-f:.]{2,45}")
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s+([A-Za-z0-9+/=\s]+?)\s*-----END \1-----")


class Tls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to trust a server and to be trusted by it. In PEM: ``ca`` replaces the system's authorities; ``certificate`` (its chain
    after it) and ``key`` are the client's own (mTLS). The key is not encrypted. ``server_name`` is what the server's certificate
    must bear, and what it is asked for (SNI), instead of the host in the endpoint."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""
    min_version: Literal["1.2", "1.3"] = "1.2"

    def flaws(self) -> list[Flaw]:
        parts = (
            ("ca", self.ca, "CERTIFICATE"),
            ("certificate", self.certificate, "CERTIFICATE"),
            ("key", self.key, "PRIVATE KEY"),
        )
        flaws = [
            Flaw(f"/config/tls/{name}", f"must be PEM with a {kind}")
            for name, text, kind in parts
            if text and not _is_pem(text, kind)
        ]
        if bool(self.certificate) != bool(self.key):
            flaws.append(Flaw("/config/tls", "certificate and key come together"))
        if self.server_name and not _NAME.fullmatch(self.server_name):
            flaws.append(Flaw("/config/tls/server_name", "must be the name of a host, or an address"))
        return flaws


def _is_pem(text: str, kind: str) -> bool:
    found = _PEM.findall(text)
    try:
        return bool(found) and all(
            label.endswith(kind) and base64.b64decode("".join(body.split()), validate=True) for label, body in found
        )
    except binascii.Error:
        return False
