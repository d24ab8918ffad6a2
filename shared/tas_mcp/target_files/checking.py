"""The targets of a snapshot, checked as a whole. Pure: the environment is passed in."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tas_mcp import targets
from tas_mcp.errors import Flaw, Rejected
from tas_mcp.target_files.loading import Snapshot
from tas_mcp.target_files.parsing import Parsed, ParseError, parse
from tas_mcp.target_files.references import resolve
from tas_mcp.targets import AnyTarget


class Problem(NamedTuple):
    """One thing that is wrong: in which file and line (0: in none), where in the target's document, and what."""

    file: str
    line: int
    pointer: str
    detail: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (f"{self.file}:{self.line}" if self.line else self.file, self.pointer, self.detail)))


class FileTarget(NamedTuple):
    """A target and the file that it is written in."""

    target: AnyTarget
    file: str


class Checked(NamedTuple):
    """The targets by id, and all that is wrong: where anything is, they are not all. ``written`` is how many the files hold."""

    targets: dict[str, FileTarget]
    written: int
    problems: list[Problem]


class _Place(NamedTuple):
    """Where a target is written: ``root`` is its pointer in the document of the file."""

    file: str
    parsed: Parsed
    root: str

    def line(self, pointer: str) -> int:
        return self.parsed.line(self.root + pointer)

    def problem(self, flaw: Flaw) -> Problem:
        return Problem(self.file, self.line(flaw.pointer), flaw.pointer, flaw.detail)


def check(snapshot: Snapshot, environ: Mapping[str, str], *, offline: bool = False) -> Checked:
    """Read and check all targets. ``offline`` is for where the variables that they refer to are not set: what refers to one is
    not checked then."""
    found: dict[str, FileTarget] = {}
    places: dict[str, _Place] = {}
    written = 0
    problems = [Problem(file, 0, "", detail) for file, detail in snapshot.unreadable.items()]
    for file, content in snapshot.files.items():
        try:
            for place, document in _documents(file, content):
                written += 1
                target, flaws = _target(document, environ, offline)
                problems += map(place.problem, flaws)
                target_id = document.get("id") if isinstance(document, dict) else None
                if isinstance(target_id, str) and (first := places.setdefault(target_id, place)) is not place:
                    again = f"target {target_id!r:.80} is in {first.file}:{first.line('/id')} already"
                    problems.append(place.problem(Flaw("/id", again)))
                elif target is not None:
                    found[target.id] = FileTarget(target, file)
        except ParseError as error:
            problems.append(Problem(file, error.line, "", str(error)))
    return Checked(found, written, problems)


def _documents(file: str, content: bytes) -> Iterator[tuple[_Place, Any]]:
    """The targets of a file, each with its place.

    Raises:
        ParseError
    """
    empty = True
    for parsed in parse(content, json=file.endswith(".json")):
        found, root = parsed.value, ""
        if found is None:
            continue  # nothing between two lines of ---
        empty = False
        if isinstance(found, dict) and "targets" in found:
            if strange := [name for name in found if name != "targets"]:
                raise ParseError(parsed.line(f"/{strange[0]}"), f"no such member beside targets: {strange[0]!r:.80}")
            found, root = found["targets"], "/targets"
            if not isinstance(found, list):
                raise ParseError(parsed.line(root), "targets must be a list")
        if isinstance(found, list):
            yield from ((_Place(file, parsed, f"{root}/{index}"), each) for index, each in enumerate(found))
        else:
            yield _Place(file, parsed, root), found
    if empty:
        raise ParseError(1, "holds no target; write [] if none is meant")


def _target(document: Any, environ: Mapping[str, str], offline: bool) -> tuple[AnyTarget | None, list[Flaw]]:
    unset: dict[str, str] = {}
    if isinstance(document, dict):
        document, unset = resolve(document, environ)
    missing = [] if offline else [Flaw(pointer, f"environment variable {name} is not set") for pointer, name in unset.items()]
    try:
        target = targets.check(document)[0]
    except Rejected as error:
        return None, missing + [each for each in error.flaws if each.pointer not in unset]
    return target, missing
