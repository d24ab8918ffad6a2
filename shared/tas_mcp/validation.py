"""How an error of msgspec is told to a caller: as a flaw with an RFC 6901 JSON pointer."""

import re

import msgspec

from tas_mcp.errors import Flaw

_FIELD = re.compile(r"Object (?:missing required field|contains unknown field) `([^`]*)`")
_PATH = re.compile(r"(.*) - at `(?:key` in `)?\$(.*)`", re.DOTALL)


def escape(name: str) -> str:
    """A member name as one reference token of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def flaw(error: Exception) -> Flaw:
    """What is wrong and where, from an error that decoding or ``msgspec.convert`` raised (``RecursionError`` and
    ``UnicodeDecodeError`` too)."""
    if isinstance(error, RecursionError):
        return Flaw("", "nested too deep")
    if isinstance(error, UnicodeDecodeError):
        return Flaw("", f"not UTF-8: {error.reason} at byte {error.start}")
    if isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError):
        return Flaw("", str(error))
    found = _PATH.fullmatch(str(error))
    detail, path = (found.group(1), found.group(2)) if found else (str(error), "")
    pointer = "".join(f"/{step}" for step in re.findall(r"[^.\[\]]+", path.replace("[...]", ".*")))
    named = _FIELD.match(detail)
    return Flaw(f"{pointer}/{escape(named.group(1))}" if named else pointer, detail)
