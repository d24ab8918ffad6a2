"""The history of the targets over HTTP: ``/api/v1/forwarding/targets/{id}/revisions`` and ``/api/v1/revisions``."""

import re
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from services.control import api_targets
from services.control.alignment import Wanted, align
from services.control.difference import NOTHING, Side, difference
from services.control.editing import ROLLED_BACK, Editor
from services.control.history import History, Revision
from services.control.requests import MAX_COMMENT, body_of, guarded, note, page, precondition, sequence, unfit_comment
from services.control.store import Entry, Store
from services.control.topology import Topology
from tas_mcp import targets
from tas_mcp.audit import Note
from tas_mcp.errors import Flaw, Rejected
from tas_mcp.http import json_response

PATH = "/api/v1/revisions"
OF_ONE = api_targets.ONE + "/revisions"

Number = Annotated[int, Meta(ge=1, le=2**63 - 1)]


class Rollback(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The revision that a target goes back to."""

    revision: Number
    comment: Annotated[str, Meta(max_length=MAX_COMMENT)] = ""


class RollbackOfAll(Rollback, frozen=True, kw_only=True):
    """The revision of the bucket that all targets go back to; a ``dry_run`` says what that would change."""

    dry_run: bool = False


def routes(topology: Topology, store: Store, editor: Editor, history: History) -> list[web.RouteDef]:
    api = _Api(store, editor, history)
    return [
        web.get(PATH, guarded(topology, api.list)),
        web.post(PATH + "/rollback", guarded(topology, api.roll_all_back)),
        web.get(OF_ONE, guarded(topology, api.list)),
        web.get(OF_ONE + "/{number}", guarded(topology, api.get)),
        web.get(OF_ONE + "/{number}/diff/{other}", guarded(topology, api.diff)),
        web.post(api_targets.ONE + "/rollback", guarded(topology, api.roll_back)),
    ]


class _Api:
    def __init__(self, store: Store, editor: Editor, history: History) -> None:
        self._store = store
        self._editor = editor
        self._history = history

    async def list(self, request: web.Request) -> web.StreamResponse:
        asked, target_id = page(request), request.match_info.get("id")
        before = sequence(request, asked.cursor) if asked.cursor else None
        found, following = await self._history.page(target_id, before, asked.limit)
        if target_id is not None and not found and before is None:
            raise Rejected("NOT_FOUND", f"there never was a target {target_id!r}")
        items = [revision.summary() for revision in found]
        return json_response({"items": items, "next": None if following is None else str(following)})

    async def get(self, request: web.Request) -> web.StreamResponse:
        found = await self._revision(request, "number")
        return json_response({**found.summary(), "target": found.shown()})

    async def diff(self, request: web.Request) -> web.StreamResponse:
        before, after = await self._revision(request, "number"), await self._revision(request, "other")
        changes = difference(_side(before), _side(after))
        return json_response({"target_id": after.entry.id, "from": before.number, "to": after.number, "changes": changes})

    async def roll_back(self, request: web.Request) -> web.StreamResponse:
        check = precondition(request)
        asked = await body_of(request, Rollback)
        why = _why(request, asked)
        target_id = request.match_info["id"]
        old = (await self._history.get(target_id, asked.revision)).entry
        if old.flaw:
            raise Rejected("INVALID_TARGET", f"revision {asked.revision} of {target_id!r} is not valid any more: {old.flaw}")
        if old.target is None:
            raise Rejected("CONFLICT", f"target {target_id!r} was deleted at revision {asked.revision}: use DELETE")
        return api_targets.saved(await self._editor.put_back(old.target, check, why), ROLLED_BACK)

    async def roll_all_back(self, request: web.Request) -> web.StreamResponse:
        """Every target as it was at a revision of the bucket, each by a new revision of its own."""
        asked = await body_of(request, RollbackOfAll)
        why = _why(request, asked)
        if not asked.dry_run:
            self._editor.unlocked()
        past = await self._history.at(asked.revision)
        wanted = {target_id: _wanted(entry, asked.revision, why) for target_id, entry in past.items()}
        done = await align(self._editor, self._store, wanted, dry_run=asked.dry_run, action=ROLLED_BACK)
        newest = max((each.revision for each in done), default=0)
        body: dict[str, Any] = {"revision": asked.revision, "dry_run": asked.dry_run}
        if newest and not await self._editor.in_force(newest):
            body["in_force"] = False
        return json_response({**body, "targets": [each.shown() for each in done]})

    async def _revision(self, request: web.Request, name: str) -> Revision:
        text, target_id = request.match_info[name], request.match_info["id"]
        if not re.fullmatch(r"[1-9][0-9]{0,17}", text):
            raise Rejected("NOT_FOUND", f"target {target_id!r} has no revision {text!r}")
        return await self._history.get(target_id, int(text))


def _why(request: web.Request, asked: Rollback) -> Note:
    """The comment may stand in the body or, as with every change, in the query."""
    given = note(request)
    comment = asked.comment.strip()
    if trouble := unfit_comment(comment):
        raise Rejected("INVALID_REQUEST", f"comment: {trouble}", [Flaw("/comment", trouble)])
    return given._replace(comment=comment or given.comment or f"rollback to revision {asked.revision}")


def _wanted(entry: Entry | None, number: int, why: Note) -> Wanted:
    if entry is None:
        return Wanted(None, why, f"what it was at revision {number} is not kept any more")
    return Wanted(entry.target, why, entry.flaw and f"revision {entry.revision} is not valid any more: {entry.flaw}")


def _side(revision: Revision) -> Side:
    shown = revision.shown()
    if shown is None:
        return NOTHING
    target = revision.entry.target
    return Side(msgspec.json.decode(targets.encode(target)) if target else shown, shown)
