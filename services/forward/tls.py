"""TLS towards targets, as their documents say."""

import ssl
from tempfile import NamedTemporaryFile

from tas_mcp.errors import Rejected
from tas_mcp.targets import Tls

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class _Context(ssl.SSLContext):
    """Wants ``server_name`` in the server's certificate, where it is set, whatever host was connected to."""

    server_name = ""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, self.server_name or server_hostname, session)


def client_context(tls: Tls | None) -> ssl.SSLContext:
    """What to connect with: the system's authorities unless told otherwise, the server's name always checked.

    Raises:
        Rejected: the certificates cannot be used.
    """
    tls = tls or Tls()
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.server_name = tls.server_name
    context.minimum_version = VERSIONS[tls.min_version]
    try:
        if tls.ca:
            context.load_verify_locations(cadata=tls.ca)
        else:
            context.load_default_certs()
        if tls.certificate:
            with NamedTemporaryFile(prefix="tas-") as file:  # OpenSSL's chain is read from files only; this one is ours alone
                file.write(f"{tls.certificate}\n{tls.key}\n".encode())
                file.flush()
                context.load_cert_chain(file.name, password="")
    except (ssl.SSLError, ValueError) as error:
        raise Rejected("INVALID_TARGET", f"config.tls cannot be used: {error}") from None
    return context
