"""Several processes for one service (``--workers N``): the parent starts and watches them, and answers for them on the ops port.

Workers share the public port (SO_REUSEPORT: the kernel spreads connections) or the broker consumer. Each answers ops requests on
a Unix socket of its own; the parent merges their metrics under a ``worker`` label. A worker that dies is started again; a worker
whose parent died stops.
"""

import asyncio
import os
import re
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from tas_mcp import __version__, telemetry
from tas_mcp.errors import Misconfigured
from tas_mcp.http import application, json_response, listening
from tas_mcp.ports import probe
from tas_mcp.settings import PREFIX, ServiceSettings

log = telemetry.logger("workers")

SHARED_PORTS = ("http_port", "grpc_port")
"""The settings of the ports that workers share."""
AGAIN_SECONDS = 0.5
GRACE_SECONDS = 5.0
ASK_SECONDS = 2.0
EOF = "# EOF\n"
"""How a page of OpenMetrics ends."""
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{)?")


def merge_pages(pages: Mapping[str, str]) -> str:
    """One page of the pages of several workers (by worker name), each sample with a ``worker`` label more: of Prometheus text, or
    of OpenMetrics, whose end is told."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, page in pages.items():
        family = ""
        for line in page.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                family = line.split(" ", 3)[2]
                head = heads.setdefault(family, [])
                if line not in head:
                    head.append(line)
            elif line and not line.startswith("#"):
                label = f'worker="{worker}"'
                add = f"\\1{{{label}," if "{" in line.split(" ", 1)[0] else f"\\1{{{label}}}"
                samples.setdefault(family, []).append(_SAMPLE.sub(add, line, count=1))
    lines = [line for family in heads for line in (*heads[family], *samples.get(family, ()))]
    if any(page.endswith(EOF) for page in pages.values()):
        lines.append(EOF.strip())
    return "\n".join(lines) + "\n"


@asynccontextmanager
async def listening_on_socket(app: web.Application, path: str) -> AsyncIterator[None]:
    """Serve ``app`` on a Unix socket while inside."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        await web.UnixSite(runner, path).start()
        yield
    finally:
        await runner.cleanup()


def stop_with_parent(stop: asyncio.Event) -> None:
    """Set ``stop`` when standard input ends: the parent holds its other end."""
    loop = asyncio.get_running_loop()

    def on_input() -> None:
        if not os.read(0, 1024):
            loop.remove_reader(0)
            stop.set()

    loop.add_reader(0, on_input)


async def supervise(name: str, count: int, settings: ServiceSettings, stop: asyncio.Event) -> None:
    """Run ``count`` workers of ``services.<name>`` until ``stop`` is set, then end them.

    Raises:
        Misconfigured: the port is in use or 0, or a worker says so.
    """
    for setting in SHARED_PORTS:
        port = getattr(settings, setting, None)
        if port is not None:
            _check_shared(settings.host, port, PREFIX + setting.upper())
    with tempfile.TemporaryDirectory(prefix="tas-") as folder:
        crew = Crew(name, count, Path(folder), settings)
        app = application(crew.routes(), 4096)
        async with listening(app, settings.host, settings.ops_port, what="TAS_OPS_PORT"):
            await crew.work(stop)


def _check_shared(host: str, port: int, what: str) -> None:
    """Shared ports do not fail when somebody else has them: look first."""
    if port == 0:
        raise Misconfigured(f"{what}: 0 (any free port) cannot be shared by workers; name a port")
    probe(host, port, what)


class Crew:
    """The workers of one service."""

    def __init__(self, name: str, count: int, folder: Path, settings: ServiceSettings) -> None:
        self._name = name
        self._drain_seconds = settings.drain_seconds
        self._sockets = {str(number): folder / f"{number}.sock" for number in range(count)}
        self._stopping = False

    async def work(self, stop: asyncio.Event) -> None:
        """Keep all workers alive until ``stop``; the first ``Misconfigured`` of a worker ends all."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in self._sockets:
                    tasks.create_task(self._keep(number, stop))
        except* Misconfigured as group:
            raise group.exceptions[0] from None

    async def _keep(self, number: str, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._sockets[number].unlink(missing_ok=True)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"services.{self._name}", "--worker-socket", str(self._sockets[number]),
                stdin=asyncio.subprocess.PIPE,
            )  # fmt: skip
            log.info("worker started", worker=number, pid=process.pid)
            try:
                code = await self._wait(process, stop)
            finally:
                if process.returncode is None:
                    process.kill()
            if code == 2:
                raise Misconfigured(f"worker {number} of {self._name} cannot start; its line above says why")
            if not stop.is_set():
                log.error("a worker died and is started again", worker=number, pid=process.pid, exit_code=code)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _wait(self, process: Process, stop: asyncio.Event) -> int:
        ended = asyncio.create_task(process.wait())
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                process.send_signal(signal.SIGTERM)
                await asyncio.wait((ended,), timeout=self._drain_seconds + GRACE_SECONDS)
            return ended.result() if ended.done() else -1
        finally:
            stopped.cancel()
            ended.cancel()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/health", self._health),
            web.get("/livez", self._health),
            web.get("/ready", self._ready),
            web.get("/readyz", self._readyz),
            web.get("/metrics", self._metrics),
            web.get("/loglevel", self._level),
            web.put("/loglevel", self._level),
        ]

    async def _ask(self, path: str, method: str = "GET", body: bytes = b"", accept: str = "*/*") -> dict[str, tuple[int, str]]:
        """Status and body of each worker's answer; 0 where there is none."""

        async def ask(where: Path) -> tuple[int, str]:
            connector = aiohttp.UnixConnector(str(where))
            timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
            try:
                async with (
                    aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                    session.request(method, "http://worker" + path, data=body or None, headers={"Accept": accept}) as response,
                ):
                    return response.status, await response.text()
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                return 0, repr(error)

        answers = await asyncio.gather(*(ask(where) for where in self._sockets.values()))
        return dict(zip(self._sockets, answers, strict=True))

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return json_response({"status": "healthy", "version": __version__, "workers": len(self._sockets)})

    async def _ready(self, _: web.Request) -> web.StreamResponse:
        return await self._all_well("/ready", 200)

    async def _readyz(self, _: web.Request) -> web.StreamResponse:
        return await self._all_well("/readyz", 200)

    async def _all_well(self, path: str, wanted: int) -> web.StreamResponse:
        answers = await self._ask(path)
        well = all(status == wanted for status, _ in answers.values())
        checks = {
            f"worker {number}": {"status": "up" if status == wanted else "down", "detail": "" if status == wanted else body}
            for number, (status, body) in answers.items()
        }
        return json_response({"status": "ready" if well else "not ready", "checks": checks}, 200 if well else 503)

    async def _level(self, request: web.Request) -> web.StreamResponse:
        """What the first worker says, of those that were all asked; one that says no speaks for all."""
        answers = await self._ask("/loglevel", request.method, await request.read())
        status, body = max(answers.values(), key=lambda answer: answer[0] or 503)
        return web.Response(status=status or 503, text=body, content_type="application/json")

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        accept = request.headers.get("Accept", "")
        answers = await self._ask("/metrics", accept=accept)
        pages = {number: body for number, (status, body) in answers.items() if status == 200}
        headers = {"Content-Type": telemetry.page_type(accept)}
        return web.Response(body=merge_pages(pages).encode(), headers=headers)
