"""Target type ``grpc``: its document."""

import re
from urllib.parse import urlsplit

from tas_mcp.errors import Flaw
from tas_mcp.targets.http import SECRET_HEADERS
from tas_mcp.targets.target import Config, Target
from tas_mcp.targets.tls import Tls
from tas_mcp.validation import escape

_KEY = re.compile(r"[0-9a-z_.-]+")
_HOST = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]")


class GrpcConfig(Config, frozen=True, kw_only=True):
    """How to deliver over gRPC."""

    headers: dict[str, str] = {}
    """The metadata of every call."""
    tls: Tls | None = None


class GrpcTarget(Target, frozen=True, kw_only=True, tag="grpc"):
    """Calls ``mcp.v1.MCPService`` at ``grpc://host:port`` (no TLS), ``grpcs://host:port`` or ``dns:///host:port`` (TLS if
    ``config.tls`` is there), balanced over all addresses of the name."""

    secrets = (("config", "headers", SECRET_HEADERS), ("config", "tls", "key"))

    endpoint: str
    config: GrpcConfig | None = None

    @property
    def delivery(self) -> GrpcConfig:
        return self.config or GrpcConfig()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.endpoint.partition("://")[2].strip("/").rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def secure(self) -> bool:
        return self.endpoint.startswith("grpcs:") or self.delivery.tls is not None

    def flaws(self) -> list[Flaw]:
        config = self.delivery
        flaws = [*_check_endpoint(self.endpoint), *_check_metadata(config.headers)]
        if config.tls:
            flaws += config.tls.flaws()
            if self.endpoint.startswith("grpc:"):
                flaws.append(Flaw("/config/tls", "grpc:// goes without TLS: the endpoint must be grpcs://host:port"))
            if config.tls.min_version != "1.2":
                flaws.append(Flaw("/config/tls/min_version", "gRPC's library takes 1.2 and newer, and cannot be told otherwise"))
        return flaws


def _check_endpoint(endpoint: str) -> list[Flaw]:
    form = [Flaw("/endpoint", "must be grpc://host:port, grpcs://host:port or dns:///host:port")]
    scheme, _, rest = endpoint.partition("://")
    if scheme not in ("grpc", "grpcs", "dns") or (scheme == "dns") != rest.startswith("/"):
        return form
    host, _, port = rest.removeprefix("/").rpartition(":")
    try:
        urlsplit(f"//{host}")
    except ValueError:
        return [Flaw("/endpoint", "is no address")]
    if not _HOST.fullmatch(host) or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        return form
    return []


def _check_metadata(headers: dict[str, str]) -> list[Flaw]:
    flaws = []
    for name, value in headers.items():
        pointer = "/config/headers/" + escape(name)
        if not _KEY.fullmatch(name) or name.endswith("-bin"):
            flaws.append(Flaw(pointer, "is no metadata key: lower-case letters, digits, _ . -, and not for binary values (-bin)"))
        elif name.startswith("grpc-"):
            flaws.append(Flaw(pointer, "is gRPC's own"))
        if not (value.isascii() and value.isprintable()):
            flaws.append(Flaw(pointer, "the value must be printable ASCII"))
    return flaws
