"""The gateway in this process, as ``tas dev`` puts it together, in a thread with a loop of its own: for clients that are not
asynchronous."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from typing import Any, NamedTuple

from aiohttp import web

from services.dev.main import SERVICES
from tas_mcp.http import application, listening
from tas_mcp.ops import Ops
from tas_mcp.service import Runtime
from tas_mcp.settings import PublicSettings

START_SECONDS = 60.0
KEY = "k1:" + "A" * 43 + "="
"""What secrets are sealed with."""
SETTINGS: dict[str, dict[str, Any]] = {
    "control": {"store_bytes": 200 * 1024**2, "secret_key": KEY},
    "ingest": {"grpc_port": 0},
    "forward": {"secret_key": KEY},
}


class Gateway(NamedTuple):
    """``routes`` are those of all its services, and the ops routes."""

    base: str
    routes: Sequence[web.RouteDef]


@contextmanager
def running(nats_url: str, services: Sequence[str], admin_key: str = "") -> Iterator[Gateway]:
    """Serve while inside, asking for keys where there is an ``admin_key``.

    Without ``forward`` nothing ever leaves this machine, whatever the endpoints of the targets are.
    """
    ready: Future[Gateway] = Future()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(_serve(nats_url, services, admin_key, ready, stop),))
    thread.start()
    try:
        yield ready.result(START_SECONDS)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


async def _serve(nats_url: str, services: Sequence[str], admin_key: str, ready: Future[Gateway], stop: asyncio.Event) -> None:
    public = {"auth": "keys" if admin_key else "none", "admin_key": admin_key}
    try:
        async with AsyncExitStack() as stack:
            ops, runtimes = Ops(), []
            for name in services:
                kind, service = SERVICES[name]
                known = public if issubclass(kind, PublicSettings) else {}
                settings = kind(nats_url=nats_url, **SETTINGS.get(name, {}), **known)
                runtime = await stack.enter_async_context(Runtime(name, settings, ops.part(name)).running())
                await stack.enter_async_context(service(settings, runtime))
                runtimes.append(runtime)
            routes = [*(route for runtime in runtimes for route in runtime.routes), *ops.routes(metrics=True)]
            app = application(routes, max(runtime.max_body for runtime in runtimes))
            front = next((runtime.front for runtime in runtimes if runtime.front), None)
            door = listening(app, "127.0.0.1", 0, what="TAS_HTTP_PORT", drain_seconds=1, front=front)
            port = await stack.enter_async_context(door)
            ops.serving = True
            ready.set_result(Gateway(f"http://127.0.0.1:{port}", routes))
            await stop.wait()
    except BaseException as error:
        if not ready.done():
            ready.set_exception(error)
        raise
