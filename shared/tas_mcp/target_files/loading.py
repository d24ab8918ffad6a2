"""The bytes of target files, from files and folders."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 4 * 1024 * 1024
MAX_FILES = 1000


class Snapshot(NamedTuple):
    """The files as they were when they were read, and what could not be read and why, both by path."""

    files: dict[str, bytes]
    unreadable: dict[str, str]


def load(paths: Sequence[Path]) -> Snapshot:
    """Read files, and all ``.yaml``, ``.yml`` and ``.json`` files in and below folders. What is below a folder and begins with a
    dot is left alone: Kubernetes keeps the old and new state of a volume there."""
    snapshot = Snapshot({}, {})
    for path in paths:
        found = sorted(_below(path)) if path.is_dir() else [path]
        if not found:
            snapshot.unreadable[str(path)] = f"there is no {', '.join(SUFFIXES)} file in this folder"
        elif len(found) > MAX_FILES:
            snapshot.unreadable[str(path)] = f"there are {len(found)} files in this folder; at most {MAX_FILES} are read"
        else:
            for each in found:
                _read(each, snapshot)
    return snapshot


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in SUFFIXES and not hidden and path.is_file():
            yield path


def _read(path: Path, snapshot: Snapshot) -> None:
    try:
        with path.open("rb") as file:
            found = file.read(MAX_BYTES + 1)
    except OSError as error:
        snapshot.unreadable[str(path)] = f"cannot be read: {error.strerror}"
        return
    if len(found) > MAX_BYTES:
        snapshot.unreadable[str(path)] = f"is larger than {MAX_BYTES} bytes"
    else:
        snapshot.files[str(path)] = found
