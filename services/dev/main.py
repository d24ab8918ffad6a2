"""``tas dev``: the embedded broker and every service in one process, on one HTTP port."""

import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from msgspec import Struct

from services.control.main import control
from services.control.settings import Settings as ControlSettings
from services.dev import broker, receiver
from services.forward.main import forward
from services.forward.settings import Settings as ForwardSettings
from services.ingest.main import ingest
from services.ingest.settings import Settings as IngestSettings
from services.process.main import process
from services.process.settings import Settings as ProcessSettings
from tas_mcp import telemetry
from tas_mcp.auth import knows_callers, on_loopback
from tas_mcp.errors import Misconfigured
from tas_mcp.http import application, listening
from tas_mcp.ops import Ops
from tas_mcp.service import Runtime, stop_on_signals, until
from tas_mcp.settings import load

log = telemetry.logger("dev")

SERVICES: dict[str, tuple[Any, Any]] = {
    "control": (ControlSettings, control),
    "process": (ProcessSettings, process),
    "forward": (ForwardSettings, forward),
    "ingest": (IngestSettings, ingest),
}
DEMO_TARGET = "demo"
KEYS_ASKED = "each request below needs one: -H 'Authorization: Bearer <key>'"
NO_KEYS = "off: whoever can connect may do everything (TAS_ADMIN_KEY_FILE turns them on)"
LOOPBACK = "127.0.0.0/8,::1"
"""Where a laptop's targets are."""


class Options(Struct, frozen=True, kw_only=True):
    """What the command line says. ``data`` is None for a folder that is thrown away."""

    data: Path | None
    nats_port: int
    demo: bool
    demo_port: int


def default_data() -> Path:
    """The user's state folder (XDG), below which the data is kept."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "tas-mcp"


async def dev(options: Options, say: Callable[[str], None], show: Callable[[str, str], None]) -> None:
    """Run everything until a signal. ``say`` prints the welcome, ``show`` a delivery of the demo.

    Raises:
        Misconfigured: a port is in use, a setting is wrong, nats-server is missing ...
    """
    stop = stop_on_signals()
    kinds = [kind for kind, _ in SERVICES.values()]
    main, warnings = load(IngestSettings, "ingest", {"TAS_LOG_LEVEL": "warning", **os.environ}, siblings=kinds)
    telemetry.configure("dev", main.log_level, main.log_format)
    for warning in warnings:
        log.warning("unknown setting", detail=warning)
    ops = Ops()
    async with AsyncExitStack() as outer:
        if options.data is None:
            data = Path(outer.enter_context(tempfile.TemporaryDirectory(prefix="tas-dev-")))
        else:
            data = options.data.expanduser().resolve()
        url = await outer.enter_async_context(broker.embedded(data, options.nats_port))
        environ = {
            "TAS_ALLOWED_NETWORKS": LOOPBACK,
            **{name: value for name, value in os.environ.items() if not name.startswith("TAS_NATS_")},  # of another broker
            "TAS_NATS_URL": url,
            "TAS_STORE_BYTES": str(broker.store_bytes(data)),
            **({} if asks_for_keys(main) else {"TAS_AUTH": "none"}),
        }
        async with AsyncExitStack() as stack:
            runtimes = []
            for name, (kind, service) in SERVICES.items():
                settings, _ = load(kind, name, environ, siblings=kinds)
                runtime = await stack.enter_async_context(Runtime(name, settings, ops.part(name)).running())
                await stack.enter_async_context(service(settings, runtime))
                runtimes.append(runtime)
            routes = [route for runtime in runtimes for route in runtime.routes]
            drains = [drain for runtime in runtimes for drain in runtime.drains]
            app = application([*routes, *ops.routes(metrics=True)], max(runtime.max_body for runtime in runtimes), drains)
            front = next((runtime.front for runtime in runtimes if runtime.front), None)
            context = next((runtime.context for runtime in runtimes if runtime.context), None)
            where, idle = (main.host, main.http_port), main.idle_seconds
            door = listening(app, *where, what="TAS_HTTP_PORT", idle_seconds=idle, front=front, tls=context)
            port = await stack.enter_async_context(door)
            base = f"{'https' if context else 'http'}://{main.host}:{port}"
            grpc = next(f"{main.host}:{runtime.ports['grpc']}" for runtime in runtimes if "grpc" in runtime.ports)
            if options.demo:
                if context:
                    raise Misconfigured("--demo speaks to the gateway without TLS: unset TAS_TLS_CERT_FILE and TAS_TLS_KEY_FILE")
                await stack.enter_async_context(demo(base, options.demo_port, main.admin_key, show))
            say(welcome(base, grpc, url, data if options.data else None, options.demo, asks_for_keys(main)))
            entered = stack.pop_all()
        await until(stop, entered, ops, main.drain_seconds)


@asynccontextmanager
async def demo(base: str, port: int, key: str, show: Callable[[str, str], None]) -> AsyncIterator[None]:
    """The receiver, and a target that sends it every event, made with ``key`` where callers need one."""
    async with receiver.receiving("127.0.0.1", port, show) as endpoint, aiohttp.ClientSession() as session:
        document = {"type": "webhook", "endpoint": endpoint, "name": "the demo receiver"}
        url = f"{base}/api/v1/forwarding/targets/{DEMO_TARGET}"
        async with session.put(url, json=document, headers={"X-API-Key": key} if key else None) as response:
            if response.status != 200:
                raise Misconfigured(f"--demo: the target could not be made: {await response.text()}")
        yield


def asks_for_keys(settings: IngestSettings) -> bool:
    """Whether callers need a key: not on a laptop, where only its own programs can connect, and nothing says that they do."""
    return settings.auth == "keys" or (settings.auth == "auto" and (knows_callers(settings) or not on_loopback(settings.host)))


def welcome(base: str, grpc: str, nats: str, data: Path | None, demo: bool, keys: bool) -> str:
    """What a new user is told."""
    target = (
        "Every event is shown below as it is delivered.\n\n"
        if demo
        else "Add a target (any URL that takes a POST; `tas dev --demo` brings its own):\n"
        f"""  curl {base}/api/v1/forwarding/targets -H 'Content-Type: application/json' \\
    -d '{{"id": "mine", "type": "webhook", "endpoint": "http://127.0.0.1:9000/"}}'\n\n"""
    )
    return (
        f"TAS MCP is running.\n\n"
        f"  events and API   {base}/api/v1/\n"
        f"  gRPC             {grpc}\n"
        f"  health, metrics  {base}/ready  {base}/metrics\n"
        f"  broker           {nats}\n"
        f"  data             {data or 'thrown away at the end (--ephemeral)'}\n"
        f"  keys             {KEYS_ASKED if keys else NO_KEYS}\n\n"
        f"{target}"
        f"Send an event:\n"
        f"""  curl {base}/api/v1/events -d '{{"event_type": "user.created", "source": "shell", "data": {{"name": "Ada"}}}}'\n\n"""
        f"Ctrl-C stops.\n"
    )
