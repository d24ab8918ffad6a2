"""What aiohttp does on a connection where no handler of ours can, made as the rest of the API does it: bytes that are no request
are answered with a problem, and who sends no more after a request still gets the answer.

The names with an underscore are private to aiohttp: ``tests/shared/test_http_protocol.py`` fails when a version changes them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from tas_mcp.errors import Rejected

Refuse = Callable[[Rejected], web.Response]


class HttpProtocol(RequestHandler):
    """One connection. ``refuse`` makes the answer of an error."""

    __slots__ = ("_last", "_refuse")

    def __init__(self, server: web.Server, refuse: Refuse, **options: Any) -> None:
        super().__init__(server, **options)
        self._refuse = refuse
        self._last: StreamReader | None = None
        """The body of the last request that has begun."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages:
            message, self._last = self._messages[-1]
            if isinstance(message, _ErrInfo) and message.exc is not None:
                message.exc.__traceback__ = None  # its frames hold the bytes, and in a circle the error

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to bytes that are no request; then the connection ends. Nothing is logged: whoever likes could fill the
        disk."""
        what = (message or "").partition(":")[0].strip() or "it cannot be read"  # what follows is what was sent
        answer = self._refuse(Rejected("INVALID_REQUEST", f"this is no HTTP request: {what}"))
        answer.force_close()
        return answer

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. Whether the connection stays open: for the answer to a request that came as a whole (TLS
        cannot be closed halfway, and a WebSocket that sends no more has ended)."""
        if self._upgraded or self._payload_parser is not None or self.ssl_context is not None:
            return False
        idle = self._waiter is not None and not self._messages
        if idle or self._last is None or not self._last.is_eof():
            return False
        if not self._messages:
            self.close()  # after the answer
        return True


def protocols(server: web.Server, refuse: Refuse) -> Callable[[], HttpProtocol]:
    """Makes the protocols of a server's connections, as it would itself."""
    return partial(HttpProtocol, server, refuse, loop=server._loop, **server._kwargs)
