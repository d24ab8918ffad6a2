"""The targets over HTTP: ``/api/v1/forwarding/targets``."""

import time
from typing import Any, cast

import msgspec
from aiohttp import web

from services.control.editing import Editor, Queue, Saved, missing
from services.control.readings import Readings
from services.control.requests import after, changed, choice, etag, guarded, json_body, note, page, precondition
from services.control.store import Entry, Store
from services.control.topology import Topology
from tas_mcp import targets
from tas_mcp.audit import Audit
from tas_mcp.http import json_response
from tas_mcp.status import Status
from tas_mcp.statuses import StatusBucket

PATH = "/api/v1/forwarding/targets"
ONE = PATH + "/{id}"

SWITCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "enable": ("enabled", {"enabled": True}),
    "disable": ("disabled", {"enabled": False}),
    "pause": ("paused", {"paused": True}),
    "resume": ("resumed", {"paused": False}),
}
"""``POST .../{id}/<switch>``: what the audit log calls it, and what it changes."""


def routes(
    topology: Topology, store: Store, editor: Editor, readings: Readings, statuses: StatusBucket, audit: Audit
) -> list[web.RouteDef]:
    api = _Api(store, editor, readings, statuses, audit)
    handlers = [
        web.post(PATH, guarded(topology, api.create)),
        web.get(PATH, guarded(topology, api.list)),
        web.get(ONE, guarded(topology, api.get)),
        web.put(ONE, guarded(topology, api.put)),
        web.delete(ONE, guarded(topology, api.delete)),
    ]
    return [*handlers, *(web.post(f"{ONE}/{switch}", guarded(topology, api.switch)) for switch in SWITCHES)]


class _Api:
    def __init__(self, store: Store, editor: Editor, readings: Readings, statuses: StatusBucket, audit: Audit) -> None:
        self._store = store
        self._editor = editor
        self._readings = readings
        self._statuses = statuses
        self._audit = audit

    async def create(self, request: web.Request) -> web.StreamResponse:
        made = await self._editor.create(await json_body(request), note(request))
        location = request.rel_url.with_query(None) / made.target_id
        return saved(made, "created", 201, {"Location": location.raw_path})

    async def put(self, request: web.Request) -> web.StreamResponse:
        check, why = precondition(request), note(request)
        return saved(await self._editor.replace(request.match_info["id"], await json_body(request), check, why), "updated")

    async def switch(self, request: web.Request) -> web.StreamResponse:
        target_id, switch = request.match_info["id"], request.path.rpartition("/")[2]
        action, changes = SWITCHES[switch]
        why = note(request)
        switched = await self._editor.change(target_id, changes, precondition(request), why, action)
        if switch == "enable" and await self._revive(target_id):
            await self._audit.record("targets", "revived", target_id, why)
        return saved(switched, "updated")

    async def _revive(self, target_id: str) -> bool:
        """Forget that it was gone, or down; whether it was."""

        def revived(old: Status) -> Status | None:
            if not old.gone and not old.open_until:
                return None
            return msgspec.structs.replace(old, gone=False, gone_recorded=False, open_until=0.0, closed_at=time.time())

        return (await self._statuses.change(target_id, await self._statuses.read(target_id), revived))[1]

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
        items, following = after(entries, lambda entry: entry.id, asked)
        return json_response({"items": [shown(entry) for entry in items], "next": following})


def shown(entry: Entry) -> dict[str, Any]:
    """The document as people may read it; of one that cannot be read only what is wrong with it."""
    return targets.masked(entry.target) if entry.target else {"id": entry.id, "invalid": entry.flaw}


def saved(change: Saved, status: str, code: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """The answer to a change."""
    return changed({"status": status, "target_id": change.target_id}, change.revision, change.in_force, code, headers)
