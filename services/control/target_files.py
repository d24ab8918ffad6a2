"""Keeps the targets as files say (setting ``targets_file``): what is in the files is made, what is not is removed.

A change is taken when two looks, a second apart, saw the same, so that no half-written file is; it is applied when all of it is
valid. Otherwise the targets stay as they are, and ``note`` says why.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from services.control.alignment import Wanted, align
from services.control.editing import Editor
from services.control.store import Store
from services.control.topology import Topology
from tas_mcp import target_files, telemetry
from tas_mcp.audit import Note
from tas_mcp.background import background
from tas_mcp.broker import BrokerError
from tas_mcp.documents import VALID
from tas_mcp.errors import Unavailable
from tas_mcp.target_files import Checked, Snapshot

log = telemetry.logger("target_files")

LOOK_SECONDS = 1.0
SHOWN_PROBLEMS = 5
SETTING = "TAS_TARGETS_FILE"
DOCUMENT = "targets_file"
"""Its name in ``mcp_document_valid``."""


def locked(path: str) -> str:
    """Why people may not change targets: they come from files. ``""`` without a path."""
    return path and f"the targets come from files ({SETTING}={path}): change them there"


class TargetFiles:
    """Follows a file, or the files of a folder; without a path, nothing. ``note`` says what people should know, or ``""``."""

    def __init__(
        self,
        path: str,
        topology: Topology,
        store: Store,
        editor: Editor,
        environ: Mapping[str, str],
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self._path = path
        self._topology = topology
        self._store = store
        self._editor = editor
        self._environ = environ
        self._seconds = seconds
        self._seen: Snapshot | None = None
        self._done: Snapshot | None = None
        self.note = "not read yet"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["TargetFiles"]:
        """Follow while inside; does not wait for the first time."""
        if not self._path:
            yield self
            return
        async with background(self._follow()):
            yield self

    async def look(self) -> None:
        """One look: take what changed, where it stood still since the last one."""
        snapshot = await asyncio.to_thread(target_files.load, [Path(self._path)])
        settled = self._seen in (None, snapshot)
        self._seen = snapshot
        if not settled or snapshot == self._done:
            return
        checked = await asyncio.to_thread(target_files.check, snapshot, self._environ)
        if checked.problems:
            self._refuse(checked)
            self._done = snapshot
        elif await self._apply(checked):
            self._done = snapshot

    async def _follow(self) -> None:
        while True:
            try:
                if not self._topology.trouble:
                    await self.look()
            except (Unavailable, BrokerError) as error:
                self.note = f"not applied yet: {error.detail}"
            except Exception:
                log.exception("target files not applied")
            await asyncio.sleep(self._seconds)

    def _refuse(self, checked: Checked) -> None:
        VALID.labels(DOCUMENT).set(0)
        for problem in checked.problems:
            log.error("target file not valid, the targets stay as they are", file=problem.file, problem=str(problem))
        self.note = "not valid, the targets stay as they are: " + _some(list(map(str, checked.problems)))

    async def _apply(self, checked: Checked) -> bool:
        """Whether each target is as its file says now. Those that could not be made so (one is still being removed) are tried
        again with the next look."""
        VALID.labels(DOCUMENT).set(1)
        name = _author(self._path)
        wanted = {entry.id: Wanted(None, Note(name)) for entry in await self._store.all()}
        wanted |= {target_id: Wanted(each.target, Note(_author(each.file))) for target_id, each in checked.targets.items()}
        done = await align(self._editor, self._store, wanted)
        for each in done:
            if each.revision:
                log.info("target taken from the files", target=each.target_id, action=each.action, revision=each.revision)
        failed = [f"{each.target_id!r}: {each.detail}" for each in done if each.action == "failed"]
        self.note = "not applied yet: " + _some(failed) if failed else ""
        return not failed


def _author(file: str) -> str:
    return f"file:{Path(file).name}"


def _some(details: list[str]) -> str:
    more = f" (and {len(details) - SHOWN_PROBLEMS} more)" if len(details) > SHOWN_PROBLEMS else ""
    return "; ".join(details[:SHOWN_PROBLEMS]) + more
