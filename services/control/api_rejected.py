"""The events refused by a schema over HTTP: ``/api/v1/rejected``."""

from aiohttp import web

from services.control.rejected import Refusal, RejectedEvents, missing
from services.control.requests import cursor, each_of, guarded, may_see, note, page, record, sequence
from services.control.topology import Topology
from tas_mcp.audit import Audit, Note
from tas_mcp.http import json_response

PATH = "/api/v1/rejected"


def routes(topology: Topology, rejected: RejectedEvents, audit: Audit) -> list[web.RouteDef]:
    api = _Api(rejected, audit)
    return [
        web.get(PATH, guarded(topology, api.list)),
        web.post(PATH + "/resubmit", guarded(topology, api.resubmit_many)),
        web.get(PATH + "/{id}", guarded(topology, api.get)),
        web.delete(PATH + "/{id}", guarded(topology, api.delete)),
        web.post(PATH + "/{id}/resubmit", guarded(topology, api.resubmit)),
    ]


class _Api:
    def __init__(self, rejected: RejectedEvents, audit: Audit) -> None:
        self._rejected = rejected
        self._audit = audit

    async def list(self, request: web.Request) -> web.StreamResponse:
        asked = page(request)
        start = sequence(request, asked.cursor)
        found, following = await self._rejected.page(request.query.get("event_type"), start, asked.limit)
        items = [refusal.shown() for refusal in found if may_see(request, refusal.event)]
        return json_response({"items": items, "next": cursor(following)})

    async def get(self, request: web.Request) -> web.StreamResponse:
        refusal = await self._rejected.get(record(request, "rejected event"))
        if not may_see(request, refusal.event):
            raise missing(refusal.seq)
        return json_response(refusal.shown())

    async def delete(self, request: web.Request) -> web.StreamResponse:
        why, refusal = note(request), await self._rejected.get(record(request, "rejected event"))
        await self._rejected.discard(refusal.seq)
        await self._recorded("discarded", refusal, why)
        return json_response({"status": "discarded", "id": request.match_info["id"]})

    async def resubmit(self, request: web.Request) -> web.StreamResponse:
        why, refusal = note(request), await self._rejected.get(record(request, "rejected event"))
        duplicate = await self._rejected.resubmit(refusal)
        await self._recorded("resubmitted", refusal, why)
        answer = {"status": "accepted", "id": request.match_info["id"], "event_id": refusal.shown()["event_id"]}
        return json_response({**answer, "duplicate": True} if duplicate else answer)

    async def resubmit_many(self, request: web.Request) -> web.StreamResponse:
        """One page of them; ``next`` is where to go on. Those that are still refused stay, and are counted."""
        asked, why, event_type = page(request), note(request), request.query.get("event_type")
        found, following = await self._rejected.page(event_type, sequence(request, asked.cursor), asked.limit)
        count, failed = await each_of(
            found,
            self._rejected.resubmit,
            lambda count, failed: self._audit.record(
                "rejected", "resubmitted", "", why, count=count, failed=failed, event_type=event_type
            ),
        )
        return json_response({"accepted": count, **failed, "next": cursor(following)})

    async def _recorded(self, done: str, refusal: Refusal, why: Note) -> None:
        event_id = refusal.event.event_id if refusal.event else ""
        await self._audit.record("rejected", done, str(refusal.seq), why, event_type=refusal.event_type, event_id=event_id)
