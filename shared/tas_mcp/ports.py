"""Looking at a port before something opens it that would not say what is wrong with it."""

import errno
import socket

from tas_mcp.errors import Misconfigured


def probe(host: str, port: int, what: str) -> None:
    """See whether the port can be listened on.

    Raises:
        Misconfigured: it cannot; the text names the setting (``what``).
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise Misconfigured(refusal(host, port, what, error)) from None


def refusal(host: str, port: int, what: str, error: OSError) -> str:
    """What is said of a port that cannot be used."""
    reason = "it is in use" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
    return f"{what}: cannot listen on {host}:{port}: {reason}; set {what} to a free port"
