"""The dead letters over HTTP: ``/api/v1/dead-letters``."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from services.control.dead import DeadLetters, Letter, Wanted, missing
from services.control.requests import choice, cursor, each_of, guarded, may_see, note, page, record, sequence
from services.control.topology import Topology
from tas_mcp.audit import Audit, Note
from tas_mcp.http import json_response

PATH = "/api/v1/dead-letters"

_Found = tuple[list[Letter], int | None]


def routes(topology: Topology, letters: DeadLetters, audit: Audit) -> list[web.RouteDef]:
    api = _Api(letters, audit)
    return [
        web.get(PATH, guarded(topology, api.list)),
        web.post(PATH + "/redrive", guarded(topology, api.redrive_many)),
        web.post(PATH + "/discard", guarded(topology, api.discard_many)),
        web.get(PATH + "/{id}", guarded(topology, api.get)),
        web.delete(PATH + "/{id}", guarded(topology, api.delete)),
        web.post(PATH + "/{id}/redrive", guarded(topology, api.redrive)),
    ]


class _Api:
    def __init__(self, letters: DeadLetters, audit: Audit) -> None:
        self._letters = letters
        self._audit = audit

    async def list(self, request: web.Request) -> web.StreamResponse:
        found, following = await self._page(request)
        items = [letter.shown() for letter in found if may_see(request, letter.event)]
        return json_response({"items": items, "next": cursor(following)})

    async def get(self, request: web.Request) -> web.StreamResponse:
        letter = await self._letters.get(record(request, "dead letter"))
        if not may_see(request, letter.event):
            raise missing(letter.seq)
        return json_response(letter.shown())

    async def delete(self, request: web.Request) -> web.StreamResponse:
        why, letter = note(request), await self._letters.get(record(request, "dead letter"))
        await self._letters.discard(letter.seq)
        await self._recorded("discarded", letter, why)
        return json_response({"status": "discarded", "id": request.match_info["id"]})

    async def redrive(self, request: web.Request) -> web.StreamResponse:
        why, letter = note(request), await self._letters.get(record(request, "dead letter"))
        await self._letters.redrive(letter)
        await self._recorded("redriven", letter, why)
        return json_response({"status": "redriven", "id": request.match_info["id"], "target_id": letter.target_id})

    async def redrive_many(self, request: web.Request) -> web.StreamResponse:
        return await self._many(request, "redriven", self._letters.redrive)

    async def discard_many(self, request: web.Request) -> web.StreamResponse:
        return await self._many(request, "discarded", lambda letter: self._letters.discard(letter.seq))

    async def _many(self, request: web.Request, done: str, act: Callable[[Letter], Awaitable[None]]) -> web.StreamResponse:
        """One page of letters; ``next`` is where to go on. Those that cannot be acted on stay, and are counted; a dry run only
        counts what is meant."""
        why = note(request)
        found, following = await self._page(request)
        if choice(request, "dry_run", ("false", "true")) == "true":
            return json_response({"matched": len(found), done: 0, "failed": 0, "failures": [], "next": cursor(following)})
        count, failed = await each_of(
            found,
            act,
            lambda count, failed: self._audit.record(
                "dead_letters", done, "", why, count=count, failed=failed, **_wanted(request)._asdict()
            ),
        )
        return json_response({"matched": len(found), done: count, **failed, "next": cursor(following)})

    async def _page(self, request: web.Request) -> _Found:
        asked = page(request)
        return await self._letters.page(_wanted(request), sequence(request, asked.cursor), asked.limit)

    async def _recorded(self, done: str, letter: Letter, why: Note) -> None:
        event_id = letter.body.event_id if letter.body else ""
        await self._audit.record("dead_letters", done, str(letter.seq), why, target_id=letter.target_id, event_id=event_id)


def _wanted(request: web.Request) -> Wanted:
    query = request.query
    return Wanted(query.get("target"), query.get("reason"), query.get("event_type"))
