"""The secrets of targets over HTTP: ``/api/v1/secrets``. They are sealed anew, never shown."""

from typing import Any

from aiohttp import web

from services.control.editing import Editor
from services.control.requests import SHOWN_FAILURES, after, guarded, note, page
from services.control.store import Store
from services.control.topology import Topology
from tas_mcp.errors import Rejected
from tas_mcp.http import json_response, problem
from tas_mcp.sealing import SETTING

ROTATE = "/api/v1/secrets/rotate"


def routes(topology: Topology, store: Store, editor: Editor) -> list[web.RouteDef]:
    async def rotate(request: web.Request) -> web.StreamResponse:
        """One page of targets; ``next`` is where to go on. What cannot be opened stays as it is, and is counted."""
        if not store.keys:
            raise Rejected("CONFLICT", f"there is no key to seal secrets with: set {SETTING} of control and forward")
        asked, why = page(request), note(request)
        entries, following = after(await store.all(), lambda entry: entry.id, asked)
        failures: list[dict[str, Any]] = []
        rotated = 0
        for entry in entries:
            try:
                rotated += await editor.reseal(entry.id, why)
            except Rejected as error:
                failures.append({"id": entry.id, "code": problem(error).code, "detail": error.detail})
        shown = {"failed": len(failures), "failures": failures[:SHOWN_FAILURES]}
        return json_response({"matched": len(entries), "rotated": rotated, **shown, "next": following})

    return [web.post(ROTATE, guarded(topology, rotate))]
