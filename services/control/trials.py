"""What rules make of one event, told without doing it; and one event sent to a target to see whether it gets there."""

import asyncio
from typing import Any

from services.control.store import Entry, Store
from tas_mcp import subjects
from tas_mcp.broker import Connection
from tas_mcp.errors import Rejected, Unavailable
from tas_mcp.messages import Event, Trial, decode_trial, encode
from tas_mcp.routing import Reshape, Route, RuleBook, RuleSet, TransformFailed, View, compile_rules
from tas_mcp.statuses import StatusBucket
from tas_mcp.targets import AnyTarget

MARGIN_SECONDS = 5.0
"""How much longer than the target's timeout an answer of forward is waited for."""
NOBODY_SECONDS = 5.0
"""After how long to ask again when no forward replica answers."""


def output(view: View, matched: bool, reshape: Reshape | None) -> dict[str, Any] | None:
    """What the target would get: ``{"event"}``, or ``{"body", "content_type"}`` where a template wrote it; ``{"error"}`` where
    the transform fails; None where it gets nothing."""
    if not matched:
        return None
    if reshape is None:
        return {"event": view.event}
    try:
        made = reshape(view)
    except TransformFailed as error:
        return {"error": str(error)}
    return {"event": made.event} if made.body is None else {"body": made.body, "content_type": made.content_type}


def judged(rules: RuleSet, event: Event) -> dict[str, Any]:
    """What the rules of one target make of an event, and why."""
    view = View(event)
    decision = rules.decide(view)
    return {
        "matched": decision is not None,
        "rule_id": decision.id if decision is not None else None,
        "output": output(view, decision is not None, decision.reshape if decision is not None else None),
        "why": rules.explain(view),
    }


class Explainer:
    """Says what all current targets make of an event. What is compiled is kept until its target changes."""

    def __init__(self, store: Store, statuses: StatusBucket) -> None:
        self._store = store
        self._statuses = statuses
        self._entries: list[Entry] = []
        self._routes: dict[str, Route] = {}
        self._book = RuleBook.build(())

    async def explain(self, event: Event) -> dict[str, Any]:
        """``{"revision", "targets": [{"target_id", "matched", "rule_id", "output", "why"}]}``, by target id. Targets that are
        being removed are not among them."""
        entries = await self._store.all()
        revision = self._store.revision
        gone = await self._statuses.gone()
        if entries is not self._entries:
            await self._follow(entries)
        view, found = View(event), {}
        for each in self._book.explain(view):
            made = output(view, each.matched, each.reshape)
            found[each.target_id] = told(each.target_id, each.why, matched=each.matched, rule_id=each.rule_id, made=made)
            await asyncio.sleep(0)  # a transform may take its time
        for entry in entries:
            if entry.target is None and not entry.removed:
                found[entry.id] = told(entry.id, unmatched(f"the document cannot be read: {entry.flaw}"))
            elif entry.target is not None and not entry.target.enabled:
                found[entry.id] = told(entry.id, unmatched("the target is disabled"))
            elif entry.id in gone:
                found[entry.id] = told(entry.id, unmatched("the target is gone (it answered 410); enable it"))
        return {"revision": revision, "targets": [found[target_id] for target_id in sorted(found)]}

    async def _follow(self, entries: list[Entry]) -> None:
        routes: dict[str, Route] = {}
        for entry in entries:
            target = entry.target
            if target is None or not target.enabled:
                continue
            known = self._routes.get(entry.id)
            if known is None or known.revision != entry.revision:
                known = Route(entry.id, entry.revision, compile_rules(target.rules or ()), target.split)
                await asyncio.sleep(0)
            routes[entry.id] = known
        self._entries, self._routes, self._book = entries, routes, RuleBook.build(routes.values())


def told(
    target_id: str, why: dict[str, Any], *, matched: bool = False, rule_id: str | None = None, made: Any = None
) -> dict[str, Any]:
    """One target of ``Explainer.explain``."""
    return {"target_id": target_id, "matched": matched, "rule_id": rule_id, "output": made, "why": why}


def unmatched(because: str) -> dict[str, Any]:
    """The reason of a target whose rules are not asked."""
    return {"matched": False, "rule_id": None, "rules": [], "because": f"not matched: {because}"}


async def send(connection: Connection, target: AnyTarget, event: Event) -> Trial:
    """Have a forward replica send the event to the target now, once.

    Raises:
        Unavailable: no replica answered.
    """
    try:
        seconds = float(target.delivery.timeout) + MARGIN_SECONDS
        answer = await connection.request(subjects.trial(target.id), encode(event), seconds)
    except Rejected as error:  # larger than the broker takes
        raise Rejected("EVENT_TOO_LARGE", error.detail) from None
    except Unavailable as error:
        raise Unavailable(f"the event was not sent: no forward replica answers ({error.detail})", NOBODY_SECONDS) from None
    return decode_trial(answer.data)
