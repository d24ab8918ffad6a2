"""The state of the whole as JSON: ``/api/v1/stats``."""

from aiohttp import web

from services.control.readings import Readings
from services.control.requests import guarded
from services.control.topology import Topology
from tas_mcp import subjects
from tas_mcp.http import json_response


def routes(topology: Topology, readings: Readings) -> list[web.RouteDef]:
    async def stats(_: web.Request) -> web.StreamResponse:
        streams = await readings.streams()
        return json_response(
            {
                "accepted": streams[subjects.EVENTS]["last_seq"],
                "streams": streams,
                "process": await readings.process(),
                "targets": await readings.targets(),
            }
        )

    return [web.get("/api/v1/stats", guarded(topology, stats))]
