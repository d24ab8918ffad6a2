"""The audit log over HTTP: ``/api/v1/audit/log``."""

from aiohttp import web

from services.control.audit import AuditLog
from services.control.requests import cursor, guarded, page, sequence
from services.control.topology import Topology
from tas_mcp.http import json_response

PATH = "/api/v1/audit/log"


def routes(topology: Topology, audit_log: AuditLog) -> list[web.RouteDef]:
    async def show(request: web.Request) -> web.StreamResponse:
        asked = page(request)
        found, following = await audit_log.page(request.query.get("kind"), sequence(request, asked.cursor), asked.limit)
        return json_response({"items": [each.shown() for each in found], "next": cursor(following)})

    return [web.get(PATH, guarded(topology, show))]
