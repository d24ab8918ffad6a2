"""Many targets made as somebody wants them, each by a change of its own: the broker has no write over several keys."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from services.control.editing import Editor
from services.control.store import Entry, Store
from tas_mcp.audit import Note
from tas_mcp.errors import Rejected
from tas_mcp.targets import AnyTarget


class Wanted(NamedTuple):
    """What a target is to be, None: not there. A ``flaw`` says why it cannot be that."""

    target: AnyTarget | None
    note: Note
    flaw: str = ""


class _Done(Exception):
    """Somebody else made it as wanted meanwhile."""


class Aligned(NamedTuple):
    """What was done with a target; ``revision`` is that of the change, 0 where there was none."""

    target_id: str
    action: Literal["unchanged", "created", "updated", "removed", "failed"]
    revision: int = 0
    detail: str = ""

    def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = {"target_id": self.target_id, "action": self.action}
        if self.revision:
            found["revision"] = self.revision
        return {**found, "detail": self.detail} if self.detail else found


async def align(
    editor: Editor, store: Store, wanted: Mapping[str, Wanted], *, dry_run: bool = False, action: str = ""
) -> list[Aligned]:
    """Make each target what is wanted; a ``dry_run`` only says what would be done. What is as wanted already gets no new
    revision. Does not wait until the changes are in force. ``action``: see ``Editor.save``.

    Raises:
        Unavailable: the broker is away; some may be done, and the same call again does the rest.
    """
    current = {entry.id: entry for entry in await store.all()}
    done = []
    for target_id, each in sorted(wanted.items()):
        try:
            done.append(await _one(editor, current.get(target_id, Entry(target_id, 0)), each, dry_run, action))
        except Rejected as error:
            done.append(Aligned(target_id, "failed", detail=error.detail))
    return done


async def _one(editor: Editor, now: Entry, wanted: Wanted, dry_run: bool, action: str) -> Aligned:
    if wanted.flaw:
        return Aligned(now.id, "failed", detail=wanted.flaw)
    if (target := wanted.target) is None:
        if not now.exists or now.removed:
            return Aligned(now.id, "unchanged")
        return Aligned(now.id, "removed", 0 if dry_run else (await editor.bury(now.id, "dead", wanted.note)).revision)
    if now.target == target:
        return Aligned(now.id, "unchanged")

    def build(entry: Entry) -> AnyTarget:
        if entry.target == target:
            raise _Done  # another replica of control reads the same files
        return target

    try:
        revision = 0 if dry_run else await editor.save(now.id, build, wanted.note, action=action)
    except _Done:
        return Aligned(now.id, "unchanged")
    return Aligned(now.id, "updated" if now.exists else "created", revision)
