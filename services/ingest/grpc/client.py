"""Who sends a call: by its metadata ``authorization`` or ``x-api-key`` or by its certificate, and from where."""

import time
from urllib.parse import unquote

import grpc

from services.ingest.rates import Addresses
from tas_mcp.auth import Authentication
from tas_mcp.callers import Caller
from tas_mcp.messages import TRACEPARENT

Context = grpc.aio.ServicerContext[bytes, bytes]


class Client:
    """The other side of a call; ``names`` are those in its certificate."""

    def __init__(self, context: Context, auth: Authentication, addresses: Addresses | None, names: tuple[str, ...] = ()) -> None:
        self._metadata = tuple(context.invocation_metadata() or ())
        self._address = auth.origin.of(host(context.peer()), self._metadata)
        self._names = names
        self._auth = auth
        self._addresses = addresses

    @property
    def traceparent(self) -> str:
        """What the call's metadata say of its trace, or ``""``."""
        return next((str(value) for key, value in self._metadata if key == TRACEPARENT), "")

    def admit(self) -> Caller:
        """Who sends a message. To be asked for each: a key may be revoked, and an address may send no more than its share.

        Raises:
            Overloaded: there are too many messages from this address.
            AuthenticationFailed: see ``Authentication.identify``.
            Unavailable: likewise.
        """
        if self._addresses is not None:
            self._addresses.admit(self._address, time.monotonic())
        return self.caller()

    def caller(self) -> Caller:
        """Who it is now. Raises as ``admit``."""
        return self._auth.caller(self._metadata, self._address, self._names)


def host(peer: str) -> str:
    """The address in what gRPC calls the peer: ``ipv4:127.0.0.1:1234``, ``ipv6:%5B::1%5D:1234``; ``""`` for others."""
    kind, _, rest = peer.partition(":")
    return unquote(rest).rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""
