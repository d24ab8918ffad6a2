"""The events refused by a schema over HTTP: ``/api/v1/rejected``."""

from aiohttp import web

from services.control.rejected import RejectedEvents
from services.control.requests import cursor, each_of, guarded, page, record, sequence
from services.control.topology import Topology
from tas_mcp.http import json_response

PATH = "/api/v1/rejected"


def routes(topology: Topology, rejected: RejectedEvents) -> list[web.RouteDef]:
    api = _Api(rejected)
    return [
        web.get(PATH, guarded(topology, api.list)),
        web.post(PATH + "/resubmit", guarded(topology, api.resubmit_many)),
        web.get(PATH + "/{id}", guarded(topology, api.get)),
        web.delete(PATH + "/{id}", guarded(topology, api.delete)),
        web.post(PATH + "/{id}/resubmit", guarded(topology, api.resubmit)),
    ]


class _Api:
    def __init__(self, rejected: RejectedEvents) -> None:
        self._rejected = rejected

    async def list(self, request: web.Request) -> web.StreamResponse:
        asked = page(request)
        start = sequence(request, asked.cursor)
        found, following = await self._rejected.page(request.query.get("event_type"), start, asked.limit)
        return json_response({"items": [refusal.shown() for refusal in found], "next": cursor(following)})

    async def get(self, request: web.Request) -> web.StreamResponse:
        return json_response((await self._rejected.get(record(request, "rejected event"))).shown())

    async def delete(self, request: web.Request) -> web.StreamResponse:
        await self._rejected.discard(record(request, "rejected event"))
        return json_response({"status": "discarded", "id": request.match_info["id"]})

    async def resubmit(self, request: web.Request) -> web.StreamResponse:
        refusal = await self._rejected.get(record(request, "rejected event"))
        duplicate = await self._rejected.resubmit(refusal)
        answer = {"status": "accepted", "id": request.match_info["id"], "event_id": refusal.shown()["event_id"]}
        return json_response({**answer, "duplicate": True} if duplicate else answer)

    async def resubmit_many(self, request: web.Request) -> web.StreamResponse:
        """One page of them; ``next`` is where to go on. Those that are still refused stay, and are counted."""
        asked = page(request)
        start = sequence(request, asked.cursor)
        found, following = await self._rejected.page(request.query.get("event_type"), start, asked.limit)
        count, failed = await each_of(found, self._rejected.resubmit)
        return json_response({"accepted": count, **failed, "next": cursor(following)})
