"""TLS of the gRPC port, with the certificates of the HTTP port, and the names of a client's certificate."""

import grpc

from services.ingest.grpc.client import Context
from tas_mcp.tls import Certificates


def credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """What to open the port with: each handshake is made with the certificates that are in force then. gRPC can demand a client's
    certificate, but not ask for one: where they are optional, clients are not known by theirs."""
    seen = certificates.loaded

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """What changed since the last handshake, or None. Called by threads of gRPC's own."""
        nonlocal seen
        if seen is certificates.loaded:
            return None
        seen = certificates.loaded
        return _configuration(certificates)

    first = _configuration(certificates)
    return grpc.dynamic_ssl_server_credentials(first, fetch, certificates.client_required)  # type: ignore[arg-type]


def names(context: Context) -> tuple[str, ...]:
    """As ``tas_mcp.tls.names``: of the client that calls."""
    told = context.auth_context()
    return tuple(name.decode(errors="replace") for kind in ("peer_uri", "peer_dns") for name in told.get(kind, ()))


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    found = certificates.loaded
    return grpc.ssl_server_certificate_configuration([(found.key, found.certificate)], found.client_ca or None)
