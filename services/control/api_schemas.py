"""The schemas over HTTP: ``/api/v1/schemas``."""

from typing import Any

from aiohttp import web

from services.control.requests import after, changed, etag, guarded, json_body, note, page, precondition
from services.control.schemas import Entry, Saved, Schemas, missing
from services.control.topology import Topology
from tas_mcp.http import json_response

PATH = "/api/v1/schemas"
ONE = PATH + "/{name}"


def routes(topology: Topology, schemas: Schemas) -> list[web.RouteDef]:
    api = _Api(schemas)
    return [
        web.get(PATH, guarded(topology, api.list)),
        web.get(ONE, guarded(topology, api.get)),
        web.put(ONE, guarded(topology, api.put)),
        web.delete(ONE, guarded(topology, api.delete)),
    ]


class _Api:
    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas

    async def list(self, request: web.Request) -> web.StreamResponse:
        asked = page(request)
        items, following = after(await self._schemas.all(), lambda entry: entry.name, asked)
        return json_response({"items": [_shown(entry) for entry in items], "next": following})

    async def get(self, request: web.Request) -> web.StreamResponse:
        entry = await self._schemas.get(request.match_info["name"])
        if not entry.exists:
            raise missing(entry.name)
        return json_response(_shown(entry), headers={"ETag": etag(entry.revision)})

    async def put(self, request: web.Request) -> web.StreamResponse:
        name, check = request.match_info["name"], precondition(request)
        return _saved(name, await self._schemas.put(name, await json_body(request), check, note(request)), "updated")

    async def delete(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        return _saved(name, await self._schemas.remove(name, precondition(request), note(request)), "deleted")


def _shown(entry: Entry) -> dict[str, Any]:
    """The document with its name and revision; of one that cannot be read only what is wrong with it."""
    found: dict[str, Any] = {"event_type": entry.name, "revision": entry.revision}
    if entry.schema is None:
        return {**found, "invalid": entry.flaw}
    return {**found, "mode": entry.schema.document.mode, "schema": entry.schema.document.schema}


def _saved(name: str, saved: Saved, status: str) -> web.Response:
    return changed({"status": status, "event_type": name}, saved.revision, saved.in_force)
