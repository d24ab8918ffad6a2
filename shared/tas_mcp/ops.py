"""Health, readiness and metrics of a process.

*Live* (``/health``, ``/livez``): the event loop turns. *Ready* (``/ready``): each dependency is fine, else 503 with the state of
each. *Started* (``/readyz``): ready to take requests whatever the dependencies do: what an orchestrator asks, so that a broker
outage is answered by us, with 503 and Retry-After, and not by an empty load balancer.
"""

import time
from collections.abc import Callable

import msgspec
from aiohttp import web

from tas_mcp import __version__, telemetry
from tas_mcp.errors import Rejected
from tas_mcp.http import answering, json_response

log = telemetry.logger("ops")

UP = telemetry.gauge("mcp_check_up", "1 while a thing that readiness depends on is fine (see /ready)", ["check"])

Check = Callable[[], str]
"""Says what is wrong, or nothing (``""``)."""


class Ops:
    """The state that the routes of ``routes`` show. Services add a check for each thing they depend on."""

    def __init__(self, prefix: str = "", whole: "Ops | None" = None) -> None:
        self._started_at = time.monotonic()
        self._prefix = prefix
        self._whole = whole or self
        self._checks: dict[str, tuple[Check, Check]] = whole._checks if whole else {}
        self.serving = False

    @property
    def uptime_seconds(self) -> float:
        return time.monotonic() - self._started_at

    def check(self, name: str, check: Check, note: Check = lambda: "") -> None:
        """Count ``name`` as a dependency of readiness. ``note`` says what people should know of it while it is up."""
        self._checks[self._prefix + name] = check, note

    def part(self, name: str) -> "Ops":
        """The ops of one of several services in this process: its checks count here, under ``name``."""
        return Ops(f"{self._prefix}{name}.", self._whole)

    def readiness(self) -> tuple[bool, dict[str, dict[str, str]]]:
        """Whether all is well, and the state of each check."""
        results = {name: (check(), note()) for name, (check, note) in self._checks.items()}
        results["serving"] = "" if self._whole.serving else "starting or draining", ""
        checks = {
            name: {"status": "down" if trouble else "up", "detail": trouble or note} for name, (trouble, note) in results.items()
        }
        return not any(trouble for trouble, _ in results.values()), checks

    def routes(self, *, metrics: bool) -> list[web.RouteDef]:
        """The routes; ``/metrics`` only where asked for, as it is not for everybody."""
        found = [
            web.get("/health", self._health),
            web.get("/livez", self._health),
            web.get("/ready", self._ready),
            web.get("/readyz", self._readyz),
        ]
        return [*found, web.get("/metrics", self._metrics)] if metrics else found

    def switches(self) -> list[web.RouteDef]:
        """The routes that change the process: for the ops port alone, which asks nobody for a key."""
        return [web.get("/loglevel", answering(self._level)), web.put("/loglevel", answering(self._change_level))]

    async def _health(self, _: web.Request) -> web.StreamResponse:
        uptime = round(self.uptime_seconds, 3)
        return json_response({"status": "healthy", "version": __version__, "uptime_seconds": uptime})

    async def _ready(self, _: web.Request) -> web.StreamResponse:
        ready, checks = self.readiness()
        return json_response({"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503)

    async def _readyz(self, _: web.Request) -> web.StreamResponse:
        status = {"status": "ready" if self.serving else "not ready"}
        return json_response(status, 200 if self.serving else 503)

    async def _level(self, _: web.Request) -> web.StreamResponse:
        return json_response({"level": telemetry.level()})

    async def _change_level(self, request: web.Request) -> web.StreamResponse:
        """``info``, or ``{"level": "info"}``."""
        wanted = (await request.text()).strip()
        if wanted.startswith("{"):
            wanted = str(msgspec.json.decode(wanted, type=dict[str, str]).get("level", ""))
        if wanted not in telemetry.LEVELS:
            raise Rejected("INVALID_REQUEST", f"{wanted[:64]!r} is no log level: send one of {', '.join(telemetry.LEVELS)}")
        telemetry.relevel(wanted)
        log.warning("the log level was changed", level=wanted)
        return json_response({"level": wanted})

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        telemetry.show(UP, {(name,): float(found["status"] == "up") for name, found in self.readiness()[1].items()})
        body, content_type = telemetry.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})
