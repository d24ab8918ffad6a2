"""Callers whose connection stays open: they are looked up again as long as they stay, so that a revocation holds at once."""

from aiohttp import web

from tas_mcp.auth import Authentication, AuthenticationFailed, credential
from tas_mcp.callers import Caller
from tas_mcp.tls import names


class Guest:
    """Who opened a connection by a request."""

    def __init__(self, auth: Authentication, request: web.Request) -> None:
        """
        Raises:
            AuthenticationFailed: the caller does not say who it is.
        """
        self._auth = auth
        self._address = auth.origin.of(request.remote or "", request.headers.items())
        self._names = names(request.transport)
        auth.caller(request.headers.items(), self._address, self._names)
        self._credential = credential(request.headers.items()) if auth.enabled else ""

    def caller(self) -> Caller:
        """Who it is now.

        Raises:
            AuthenticationFailed: its credential does not hold any more.
            Unavailable: that cannot be told.
        """
        return self._auth.identify(self._credential, self._address, self._names)

    def confirm(self, caller: Caller) -> None:
        """Make sure that it still is this caller, who may do the same.

        Raises:
            AuthenticationFailed: it is not.
            Unavailable: that cannot be told.
        """
        if self.caller() != caller:
            raise AuthenticationFailed("expired", f"what {caller.name} may do was changed: connect again", caller.name)
