"""The targets over HTTP: ``/api/v1/forwarding/targets``."""

from typing import Any, cast

from aiohttp import web

from services.control.editing import Editor, Queue, Saved, missing
from services.control.readings import Readings
from services.control.requests import choice, etag, guarded, json_body, note, page, precondition
from services.control.store import Entry, Store
from services.control.topology import Topology
from tas_mcp import targets
from tas_mcp.http import json_response

PATH = "/api/v1/forwarding/targets"
ONE = PATH + "/{id}"

SWITCHES: dict[str, dict[str, Any]] = {
    "enable": {"enabled": True},
    "disable": {"enabled": False},
    "pause": {"paused": True},
    "resume": {"paused": False},
}
"""``POST .../{id}/<switch>``: what it changes."""


def routes(topology: Topology, store: Store, editor: Editor, readings: Readings) -> list[web.RouteDef]:
    api = _Api(store, editor, readings)
    handlers = [
        web.post(PATH, guarded(topology, api.create)),
        web.get(PATH, guarded(topology, api.list)),
        web.get(ONE, guarded(topology, api.get)),
        web.put(ONE, guarded(topology, api.put)),
        web.delete(ONE, guarded(topology, api.delete)),
    ]
    return [*handlers, *(web.post(f"{ONE}/{switch}", guarded(topology, api.switch)) for switch in SWITCHES)]


class _Api:
    def __init__(self, store: Store, editor: Editor, readings: Readings) -> None:
        self._store = store
        self._editor = editor
        self._readings = readings

    async def create(self, request: web.Request) -> web.StreamResponse:
        made = await self._editor.create(await json_body(request), note(request))
        location = request.rel_url.with_query(None) / made.target_id
        return saved(made, "created", 201, {"Location": location.raw_path})

    async def put(self, request: web.Request) -> web.StreamResponse:
        check, why = precondition(request), note(request)
        return saved(await self._editor.replace(request.match_info["id"], await json_body(request), check, why), "updated")

    async def switch(self, request: web.Request) -> web.StreamResponse:
        changes = SWITCHES[request.path.rpartition("/")[2]]
        check, why = precondition(request), note(request)
        return saved(await self._editor.change(request.match_info["id"], changes, check, why), "updated")

    async def delete(self, request: web.Request) -> web.StreamResponse:
        queue = cast(Queue, choice(request, "queue", ("dead", "discard")))
        check, why = precondition(request), note(request)
        return saved(await self._editor.remove(request.match_info["id"], queue, check, why), "deleted")

    async def get(self, request: web.Request) -> web.StreamResponse:
        entry = await self._store.get(request.match_info["id"])
        if not entry.exists or entry.removed:
            raise missing(request.match_info["id"])
        document = {**shown(entry), "status": await self._readings.status(entry)}
        return json_response(document, headers={"ETag": etag(entry.revision)})

    async def list(self, request: web.Request) -> web.StreamResponse:
        form = choice(request, "format", ("map", "list"))
        asked = page(request)
        entries = [entry for entry in await self._store.all() if not entry.removed]
        if form == "map":
            return json_response({entry.id: shown(entry) for entry in entries})
        rest = [entry for entry in entries if entry.id > asked.cursor]
        items = rest[: asked.limit]
        following = items[-1].id if len(rest) > len(items) else None
        return json_response({"items": [shown(entry) for entry in items], "next": following})


def shown(entry: Entry) -> dict[str, Any]:
    """The document as people may read it; of one that cannot be read only what is wrong with it."""
    return targets.masked(entry.target) if entry.target else {"id": entry.id, "invalid": entry.flaw}


def saved(change: Saved, status: str, code: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """The answer to a change."""
    body: dict[str, Any] = {"status": status, "target_id": change.target_id}
    if not change.in_force:
        body["in_force"] = False
    return json_response(body, code, {"ETag": etag(change.revision), **(headers or {})})
