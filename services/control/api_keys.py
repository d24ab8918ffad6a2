"""The API keys over HTTP: ``/api/v1/keys``. A key is shown once, in the answer that made it."""

from typing import Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

from services.control.keys import Keys, Made
from services.control.requests import after, guarded, json_body, note, page
from services.control.topology import Topology
from tas_mcp.auth.keys import Grant
from tas_mcp.durations import Duration, from_json
from tas_mcp.http import json_response
from tas_mcp.validation import flaws, invalid

PATH = "/api/v1/keys"
ONE = PATH + "/{id}"

UNSEEN = {"Cache-Control": "no-store"}


class NewKey(Grant, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that asks for a key."""

    expires_in: Duration | None = None


class Rotation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that asks for a new key in the place of another."""

    overlap: Duration = Duration(24 * 3600)
    expires_in: Duration | None = None


B = TypeVar("B", NewKey, Rotation)


def routes(topology: Topology, keys: Keys) -> list[web.RouteDef]:
    api = _Api(keys)
    return [
        web.post(PATH, guarded(topology, api.create)),
        web.get(PATH, guarded(topology, api.list)),
        web.get(ONE, guarded(topology, api.get)),
        web.delete(ONE, guarded(topology, api.revoke)),
        web.post(ONE + "/rotate", guarded(topology, api.rotate)),
    ]


class _Api:
    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def create(self, request: web.Request) -> web.StreamResponse:
        asked = _checked(await json_body(request), NewKey)
        made = await self._keys.create(asked, asked.expires_in, note(request))
        return json_response(_shown(made), 201, {**UNSEEN, "Location": f"{PATH}/{made.entry.id}"})

    async def list(self, request: web.Request) -> web.StreamResponse:
        name = request.query.get("name")
        entries = [each for each in await self._keys.all() if name is None or (each.key and each.key.name == name)]
        items, following = after(entries, lambda entry: entry.order, page(request))
        return json_response({"items": [entry.shown() for entry in items], "next": following})

    async def get(self, request: web.Request) -> web.StreamResponse:
        return json_response((await self._keys.get(request.match_info["id"])).shown())

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        key_id = request.match_info["id"]
        in_force = await self._keys.revoke(key_id, note(request))
        return json_response({"status": "revoked", "id": key_id, **_unless(in_force)})

    async def rotate(self, request: web.Request) -> web.StreamResponse:
        asked = _checked(await json_body(request), Rotation) if request.body_exists else Rotation()
        made, old = await self._keys.rotate(request.match_info["id"], asked.overlap, asked.expires_in, note(request))
        replaced = {"id": old.id, "expires_at": old.key.expires_at if old.key else None}
        return json_response({**_shown(made), "replaces": replaced}, 201, {**UNSEEN, "Location": f"{PATH}/{made.entry.id}"})


def _checked(given: Any, kind: type[B]) -> B:
    if found := flaws(given, kind, from_json):
        raise invalid("INVALID_KEY", "key", found)
    return msgspec.convert(given, kind, dec_hook=from_json)


def _shown(made: Made) -> dict[str, Any]:
    return {**made.entry.shown(), "key": made.text, **_unless(made.in_force)}


def _unless(in_force: bool) -> dict[str, bool]:
    return {} if in_force else {"in_force": False}
