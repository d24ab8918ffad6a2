"""The life of a process: read settings, connect, serve, drain, stop.

A service is an async context manager ``service(settings, runtime)``: entering starts it, being inside is serving, leaving drains
it. ``run`` is the ``main`` of every ``python -m services.X``; the all-in-one runner enters several services itself.
"""

import argparse
import asyncio
import gc
import os
import resource
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import uvloop
from aiohttp import web

from tas_mcp import __version__, telemetry, tls, workers
from tas_mcp.audit import Audit
from tas_mcp.auth import Authentication
from tas_mcp.auth.attempts import Attempts
from tas_mcp.broker import Connection, Publisher
from tas_mcp.broker.security import Tls, client_context
from tas_mcp.errors import Misconfigured
from tas_mcp.http import Drain, Front, application, listening
from tas_mcp.ops import Ops
from tas_mcp.pulse import measured
from tas_mcp.settings import PREFIX, PublicSettings, ServiceSettings, load
from tas_mcp.tracing import open_tracer

log = telemetry.logger("service")

S = TypeVar("S", bound=ServiceSettings)

CONNECTED = telemetry.gauge("mcp_broker_connected", "1 while the link to NATS is up")
RECONNECTS = telemetry.counter("mcp_broker_connects", "Links to NATS that were made")

EXIT_MISCONFIGURED = 2
OPS_BODY_BYTES = 4096
BROKER_SCHEMES = ("nats", "tls", "ws", "wss")


class Runtime:
    """What a service is given: a broker link, a publisher, who may come in, its ops state, and a door for its HTTP routes.
    ``shared`` says that it is one of several workers, who share their public ports; ``ports`` are those that it opened itself, by
    their names.

    Raises:
        Misconfigured: the broker's addresses or the sampler of traces are none; the certificates of the public ports or the
            bootstrap key cannot be used.
    """

    def __init__(self, name: str, settings: ServiceSettings, ops: Ops, *, shared: bool = False) -> None:
        self.name = name
        self.ops = ops
        self.shared = shared
        self.ports: dict[str, int] = {}
        self.connection = _connection(name, settings)
        self.publisher = Publisher(self.connection)
        self.auth = Authentication(self.connection, settings if isinstance(settings, PublicSettings) else PublicSettings())
        self.audit = Audit(self.publisher, name)
        self._attempts = Attempts(self.audit)
        self.auth.told = self._attempts.tell
        self.tracer = open_tracer(name, os.environ)
        self.routes: list[web.RouteDef] = []
        self.drains: list[Drain] = []
        self.max_body = 0
        self.front: Front | None = None
        self.certificates = tls.certificates(settings) if isinstance(settings, PublicSettings) else None
        """What the public ports show; None where they speak without TLS."""

    def mount(self, routes: Sequence[web.RouteDef], max_body: int, drains: Sequence[Drain] = ()) -> None:
        """Serve ``routes`` on the public port; ``max_body`` is the largest request body in bytes; ``drains`` end what would not
        end by itself when the port is closed."""
        self.routes += routes
        self.drains += drains
        self.max_body = max(self.max_body, max_body)

    @property
    def context(self) -> ssl.SSLContext | None:
        """What the public ports listen with."""
        return self.certificates.context if self.certificates else None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Runtime"]:
        """Keep the broker link, follow the certificates, and record who could not say who they are, while inside."""
        self.ops.check("broker", lambda: self.connection.trouble)
        async with AsyncExitStack() as stack:
            if certificates := self.certificates:
                self.ops.check("certificate", lambda: "", lambda: certificates.note)
                await stack.enter_async_context(certificates.running())
            await stack.enter_async_context(self.tracer.running())
            stack.enter_context(self.connection.watched(up=_count_connect, down=lambda: CONNECTED.set(0)))
            await stack.enter_async_context(self.connection.running())
            await stack.enter_async_context(self.publisher.running())
            await stack.enter_async_context(self._attempts.running())
            yield self


def _connection(name: str, settings: ServiceSettings) -> Connection:
    """The link to the broker that the settings name.

    Raises:
        Misconfigured: they are no addresses, or their certificates cannot be used.
    """
    servers = _servers(settings.nats_url)
    files = settings.nats_ca_file, settings.nats_cert_file, settings.nats_key_file
    tls = None
    if any(files) or settings.nats_tls_first or any(url.startswith("tls:") for url in servers):
        tls = Tls(partial(client_context, *files), settings.nats_tls_first)
        try:
            tls.context()
        except OSError as error:
            raise Misconfigured(f"TAS_NATS_CA_FILE, TAS_NATS_CERT_FILE, TAS_NATS_KEY_FILE: {error}") from None
    return Connection(
        servers,
        name=f"tas-{name}",
        user=settings.nats_user,
        password=settings.nats_password,
        token=settings.nats_token,
        creds=settings.nats_creds,
        nkey=settings.nats_nkey,
        inbox_prefix=settings.nats_inbox_prefix or f"_INBOX_{name}",
        tls=tls,
    )


def _servers(urls: str) -> list[str]:
    """The addresses of the broker, each tried before it is asked for: what the client cannot read it would try for ever."""
    servers = [url.strip() for url in urls.split(",")]
    for server in servers:
        try:
            url = urlsplit(server if "://" in server else f"nats://{server}")
            fits = url.scheme in BROKER_SCHEMES and bool(url.hostname) and url.port != 0 and server.isprintable()
        except ValueError:  # no port, or brackets that do not fit
            fits = False
        if not fits:
            shown = server.rpartition("@")[2]  # without the password
            raise Misconfigured(f"TAS_NATS_URL: {shown!r} is no address: write nats://host:4222, several with commas between")
    return servers


def _count_connect() -> None:
    CONNECTED.set(1)
    RECONNECTS.inc()


Service = Callable[[S, Runtime], AbstractAsyncContextManager[None]]


async def until(stop: asyncio.Event, entered: AsyncExitStack, ops: Ops, drain_seconds: float) -> None:
    """Serve until ``stop`` is set, then leave ``entered``, giving up after ``drain_seconds`` what is still in flight: nothing is
    lost by that, the broker hands it out again."""
    ops.serving = True
    await entered.enter_async_context(measured())
    freeze()
    log.info("ready to serve", version=__version__)
    await stop.wait()
    ops.serving = False
    log.info("draining", at_most_seconds=drain_seconds)
    try:
        async with asyncio.timeout(drain_seconds):
            await entered.aclose()
    except TimeoutError:
        log.error("the drain took too long: what was in flight will be handed out again", seconds=drain_seconds)


async def serve(name: str, settings: S, service: Service[S], stop: asyncio.Event, ops_socket: str = "") -> None:
    """Run one service until ``stop`` is set. With ``ops_socket`` it is one of several workers: it shares the public port and
    answers ops requests on that Unix socket.

    Raises:
        Misconfigured: a port is in use, or the service says so.
    """
    ops = Ops()
    runtime = Runtime(name, settings, ops, shared=bool(ops_socket))
    async with runtime.running():
        async with AsyncExitStack() as stack:
            ops_app = application([*ops.routes(metrics=True), *ops.switches()], OPS_BODY_BYTES)
            await stack.enter_async_context(
                workers.listening_on_socket(ops_app, ops_socket)
                if ops_socket
                else listening(ops_app, settings.host, settings.ops_port, what="TAS_OPS_PORT")
            )
            await stack.enter_async_context(service(settings, runtime))
            if runtime.routes and isinstance(settings, PublicSettings):
                await stack.enter_async_context(
                    listening(
                        application([*runtime.routes, *ops.routes(metrics=False)], runtime.max_body, runtime.drains),
                        settings.host,
                        settings.http_port,
                        what="TAS_HTTP_PORT",
                        reuse_port=runtime.shared,
                        drain_seconds=settings.drain_seconds,
                        idle_seconds=settings.idle_seconds,
                        front=runtime.front,
                        tls=runtime.context,
                    )
                )
            entered = stack.pop_all()
        await until(stop, entered, ops, settings.drain_seconds)


def freeze() -> None:
    """Take what the start made out of the garbage collector's sight: it lives as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets; a second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop


def run(name: str, kind: type[S], service: Service[S], argv: Sequence[str] | None = None) -> None:
    """The main of a service: parse the command line, read settings, run until a signal. Ends the process with 0, or with 2 and
    one line on standard error where it cannot start."""
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{name}",
        description=f"The {name} service of TAS MCP {__version__}.",
        epilog=describe(kind),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share the work (default 1)")
    parser.add_argument("--worker-socket", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)

    async def main() -> None:
        settings, warnings = load(kind, name, os.environ)
        telemetry.configure(name, settings.log_level, settings.log_format)
        stop = stop_on_signals()
        if arguments.worker_socket:
            workers.stop_with_parent(stop)
            await serve(name, settings, service, stop, arguments.worker_socket)
            return
        for warning in warnings:
            log.warning("unknown setting", detail=warning)
        if arguments.workers > 1:
            await workers.supervise(name, arguments.workers, settings, stop)
        else:
            await serve(name, settings, service, stop)

    start(main())


def start(main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` on uvloop; a ``Misconfigured`` becomes one clear line and exit code 2."""
    _allow_open_files()
    try:
        uvloop.run(main)
    except Misconfigured as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(EXIT_MISCONFIGURED)


def _allow_open_files() -> None:
    """Raise the soft limit of open files, often 1024, to the hard one: each connection is one, and nothing here uses
    ``select``, for whose sake there is a soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (soft, resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def describe(kind: type[ServiceSettings]) -> str:
    """The settings as a text for ``--help``: variable, default."""
    lines = [f"  {PREFIX + field.name.upper():28} {field.default!r}" for field in msgspec.structs.fields(kind)]
    return "\n".join(["settings, from the environment (or a TOML file named by TAS_CONFIG):", *lines])
