"""How a client knows that it talks to its NATS server, and nobody else listens.

nats-py goes on in plain text, password and all, where a server says that it has no TLS. Whoever sits between the two could say
so.
"""

import ssl
from collections.abc import Callable
from typing import NamedTuple

from nats.aio.client import Client
from nats.errors import Error


class Tls(NamedTuple):
    """That a link is encrypted, and how: ``context`` is asked before each connect (``OSError``: it cannot be had now); ``first``
    is for a server that expects the handshake before it says anything."""

    context: Callable[[], ssl.SSLContext]
    first: bool = False


class TlsClient(Client):
    """A client that, once it has a TLS context, says nothing before the link is encrypted. ``_connect_command`` makes the first
    thing that is said; the name is private to nats-py: ``tests/shared/broker/test_security.py`` fails when a version changes it.
    """

    def _connect_command(self) -> bytes:
        if "tls" in self.options and self._transport._io_writer.get_extra_info("ssl_object") is None:  # type: ignore[union-attr]
            raise Error("the server has no TLS, which the settings demand: it was told nothing")
        return super()._connect_command()


def client_context(ca_file: str, cert_file: str, key_file: str) -> ssl.SSLContext:
    """What to connect with, read from PEM files: the authorities to trust (``""``: those of the system) and our own certificate
    (``""``: none). The server's name is checked.

    Raises:
        OSError: a file is missing or cannot be used (``ssl.SSLError`` is one).
    """
    context = ssl.create_default_context(cafile=ca_file or None)
    if cert_file:
        context.load_cert_chain(cert_file, key_file or None, password="")  # an encrypted key fails, and asks nobody
    return context
