"""How an error of msgspec is told to a caller: as a flaw with an RFC 6901 JSON pointer; and, as msgspec stops at the first, how
all the others are found."""

import itertools
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from tas_mcp.errors import Flaw, Rejected

MAX_FLAWS = 100

Hook = Callable[[type, Any], Any]
"""A ``dec_hook`` of msgspec."""

_FIELD = re.compile(r"Object (?:missing required field|contains unknown field) `([^`]*)`")
_PATH = re.compile(r"(.*) - at `(?:key` in `)?\$(.*)`", re.DOTALL)


def escape(name: str) -> str:
    """A member name as one reference token of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def invalid(code: str, what: str, flaws: Sequence[Flaw]) -> Rejected:
    """The refusal of a document: ``what`` it is, and the first three of its flaws in words."""
    first = "; ".join(f"{each.pointer or 'document'}: {each.detail}" for each in flaws[:3])
    more = f" (and {len(flaws) - 3} more)" if len(flaws) > 3 else ""
    return Rejected(code, f"the {what} is not valid: {first}{more}", flaws)


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


def flaws(document: Any, kind: Any, dec_hook: Hook) -> list[Flaw]:
    """Every place (the first 100) at which a decoded document is not of a kind: a Struct, or a union of tagged ones. None of
    them, if ``msgspec.convert`` takes it."""
    return list(itertools.islice(_flaws(document, kind, "", dec_hook), MAX_FLAWS))


def _flaws(value: Any, kind: Any, pointer: str, dec_hook: Hook) -> Iterator[Flaw]:
    try:
        msgspec.convert(value, kind, dec_hook=dec_hook)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        deeper = False
        for each in _parts_flaws(value, kind, pointer, dec_hook):
            deeper = True
            yield each
        if not deeper:
            what = flaw(error)
            yield Flaw(pointer + what.pointer, what.detail)


def _parts_flaws(value: Any, kind: Any, pointer: str, dec_hook: Hook) -> Iterator[Flaw]:
    for form in _forms(kind):
        arguments = typing.get_args(form)
        if isinstance(value, list) and (typing.get_origin(form) is list or arguments[1:] == (...,)):
            for index, item in enumerate(value):
                yield from _flaws(item, arguments[0], f"{pointer}/{index}", dec_hook)
            return
        if isinstance(value, dict) and typing.get_origin(form) is dict:
            for name, item in value.items():
                yield from _flaws(item, arguments[1], f"{pointer}/{escape(name)}", dec_hook)
            return
        if isinstance(value, dict) and isinstance(form, type) and issubclass(form, Struct) and _tagged(value, form):
            yield from _members_flaws(value, form, pointer, dec_hook)
            return


def _members_flaws(value: dict[str, Any], form: type[Struct], pointer: str, dec_hook: Hook) -> Iterator[Flaw]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(form)}
    tag = [config.tag_field] if (config := form.__struct_config__).tag_field else []
    for name, item in value.items():
        if name in fields:
            yield from _flaws(item, fields[name].type, f"{pointer}/{escape(name)}", dec_hook)
        elif config.forbid_unknown_fields and name not in tag:
            yield Flaw(f"{pointer}/{escape(name)}", f"no such member; allowed are {', '.join([*tag, *fields])}")
    for name, field in fields.items():
        if field.required and name not in value:
            yield Flaw(f"{pointer}/{name}", "is missing")


def _forms(kind: Any) -> tuple[Any, ...]:
    """The members of a union, without their annotations; of anything else, itself."""
    if typing.get_origin(kind) is typing.Annotated:
        return _forms(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(form for each in typing.get_args(kind) for form in _forms(each))
    return (kind,)


def _tagged(value: dict[str, Any], form: type[Struct]) -> bool:
    config = form.__struct_config__
    return config.tag_field is None or value.get(config.tag_field) == config.tag


def mended(document: Any, kind: Any, dec_hook: Hook, found: Sequence[Flaw]) -> Any:
    """A copy without the members that are flawed (without the whole list, where it is an item); texts that are missing are empty.
    It may not be of that kind yet: not everything can be left out."""
    for _ in range(2):
        for each in found:
            document = _without(document, [step.replace("~1", "/").replace("~0", "~") for step in each.pointer.split("/")[1:]])
        found = flaws(document, kind, dec_hook)
    return document


def _without(value: Any, path: list[str]) -> Any:
    if not path:
        return value
    name, rest = path[0], path[1:]
    if isinstance(value, list):
        return [_without(item, rest) if str(index) == name else item for index, item in enumerate(value)]
    if name not in value:
        return value if rest else {**value, name: ""}
    if not rest or (len(rest) == 1 and isinstance(value[name], list)):
        return {key: item for key, item in value.items() if key != name}
    return {**value, name: _without(value[name], rest)}
