"""TLS towards targets, as their documents say."""

import ssl
from tempfile import NamedTemporaryFile

from tas_mcp.errors import Rejected
from tas_mcp.targets import Tls


def client_context(tls: Tls | None) -> ssl.SSLContext:
    """What to connect with: the system's authorities unless told otherwise, the host's name always checked.

    Raises:
        Rejected: the certificates cannot be used.
    """
    try:
        context = ssl.create_default_context(cadata=tls.ca if tls and tls.ca else None)
        if tls and tls.certificate:
            with NamedTemporaryFile(prefix="tas-") as file:  # OpenSSL's chain is read from files only; this one is ours alone
                file.write(f"{tls.certificate}\n{tls.key}\n".encode())
                file.flush()
                context.load_cert_chain(file.name, password="")
    except (ssl.SSLError, ValueError) as error:
        raise Rejected("INVALID_TARGET", f"config.tls cannot be used: {error}") from None
    return context
