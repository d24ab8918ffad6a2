"""The demo receiver: takes every delivery and shows it on the terminal."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from tas_mcp.http import answering, application, json_response, listening
from tas_mcp.service import start, stop_on_signals

PORT = 8089
MAX_BODY_BYTES = 16 * 1024 * 1024


@asynccontextmanager
async def receiving(host: str, port: int, show: Callable[[str, str], None]) -> AsyncIterator[str]:
    """Receive while inside; yields the URL. ``show`` gets the webhook-id and the body of each delivery."""

    async def receive(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        show(request.headers.get("webhook-id", ""), body.decode(errors="replace"))
        return json_response({"status": "received"})

    app = application([web.post("/", answering(receive))], MAX_BODY_BYTES)
    async with listening(app, host, port, what="--demo-port") as actual:
        yield f"http://{host}:{actual}/"


async def main() -> None:
    """Receive on port 8089 of all interfaces until a signal, and print what comes: a container's main."""
    stop = stop_on_signals()

    def show(webhook_id: str, body: str) -> None:
        sys.stdout.write(f"{webhook_id} {body}\n")

    async with receiving("0.0.0.0", PORT, show):
        await stop.wait()


if __name__ == "__main__":
    start(main())
