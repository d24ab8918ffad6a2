"""The dead letters over HTTP: ``/api/v1/dead-letters``."""

from typing import Any

from aiohttp import web

from services.control.dead import DeadLetters
from services.control.requests import cursor, guarded, page, record, sequence
from services.control.topology import Topology
from tas_mcp.errors import Rejected
from tas_mcp.http import json_response, problem

PATH = "/api/v1/dead-letters"
SHOWN_FAILURES = 20


def routes(topology: Topology, letters: DeadLetters) -> list[web.RouteDef]:
    api = _Api(letters)
    return [
        web.get(PATH, guarded(topology, api.list)),
        web.post(PATH + "/redrive", guarded(topology, api.redrive_many)),
        web.get(PATH + "/{id}", guarded(topology, api.get)),
        web.delete(PATH + "/{id}", guarded(topology, api.delete)),
        web.post(PATH + "/{id}/redrive", guarded(topology, api.redrive)),
    ]


class _Api:
    def __init__(self, letters: DeadLetters) -> None:
        self._letters = letters

    async def list(self, request: web.Request) -> web.StreamResponse:
        asked = page(request)
        found, following = await self._letters.page(request.query.get("target"), sequence(request, asked.cursor), asked.limit)
        return json_response({"items": [letter.shown() for letter in found], "next": cursor(following)})

    async def get(self, request: web.Request) -> web.StreamResponse:
        return json_response((await self._letters.get(record(request, "dead letter"))).shown())

    async def delete(self, request: web.Request) -> web.StreamResponse:
        await self._letters.discard(record(request, "dead letter"))
        return json_response({"status": "discarded", "id": request.match_info["id"]})

    async def redrive(self, request: web.Request) -> web.StreamResponse:
        letter = await self._letters.get(record(request, "dead letter"))
        await self._letters.redrive(letter)
        return json_response({"status": "redriven", "id": request.match_info["id"], "target_id": letter.target_id})

    async def redrive_many(self, request: web.Request) -> web.StreamResponse:
        """One page of letters; ``next`` is where to go on. Those that cannot be put back stay, and are counted."""
        asked = page(request)
        found, following = await self._letters.page(request.query.get("target"), sequence(request, asked.cursor), asked.limit)
        failures: list[dict[str, Any]] = []
        for letter in found:
            try:
                await self._letters.redrive(letter)
            except Rejected as error:
                failures.append({"id": str(letter.seq), "code": problem(error).code, "detail": error.detail})
        counts = {"redriven": len(found) - len(failures), "failed": len(failures)}
        return json_response({**counts, "failures": failures[:SHOWN_FAILURES], "next": cursor(following)})
