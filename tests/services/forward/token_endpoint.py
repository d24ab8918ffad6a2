"""An OAuth 2.0 token endpoint whose answers a test chooses, and which counts what it is asked."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class TokenEndpoint:
    """Its n-th token is ``t<n>``; ``answer`` and ``status`` replace that."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, str], dict[str, str]]] = []
        self.answer: Any = None
        self.status = 200
        self.expires_in: Any = 3600
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        form = await request.post()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((headers, {name: str(value) for name, value in form.items()}))
        number = len(self.seen)
        await self.go_on.wait()
        token = {"access_token": f"t{number}", "token_type": "bearer", "expires_in": self.expires_in}
        return web.json_response(token if self.answer is None else self.answer, status=self.status)


@asynccontextmanager
async def issuing(tls: ssl.SSLContext | None = None) -> AsyncIterator[TokenEndpoint]:
    endpoint = TokenEndpoint()
    app = web.Application()
    app.add_routes([web.post("/token", endpoint.take)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    endpoint.port = runner.addresses[0][1]
    try:
        yield endpoint
    finally:
        endpoint.go_on.set()
        await runner.cleanup()
