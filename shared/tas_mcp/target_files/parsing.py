"""YAML as data, each value with its line. The rules kept here: what YAML can say and JSON cannot is refused, a key stands once,
and aliases cannot make a small file large.

It is YAML 1.2 (core schema): ``yes``, ``no``, ``on``, ``12:30`` and ``2024-01-01`` are texts. JSON is YAML, save for three things
that are put right first: tabs between its tokens, characters escaped as surrogate pairs, and some that YAML wants escaped.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from tas_mcp.validation import escape

MAX_VALUES = 200_000
MAX_DEPTH = 64

_TAG = "tag:yaml.org,2002:"
_WANTS_ESCAPE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


class ParseError(ValueError):
    """The text is not what it should be, at a line."""

    def __init__(self, line: int, detail: str) -> None:
        super().__init__(detail)
        self.line = line


class Parsed(NamedTuple):
    """One document of a text, and the line of each of its values by pointer: a member's is that of its name."""

    value: Any
    lines: dict[str, int]

    def line(self, pointer: str) -> int:
        """The line of a value, or of what it would be in."""
        while pointer and pointer not in self.lines:
            pointer = pointer.rpartition("/")[0]
        return self.lines[pointer]


class _Loader(yaml.CSafeLoader):
    """Tells the type of a plain scalar by the rules below alone."""


_Loader.yaml_implicit_resolvers = {}


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})\\Z"), _first)


def parse(content: bytes, *, json: bool) -> Iterator[Parsed]:
    """The documents of a text.

    Raises:
        ParseError
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ParseError(content.count(b"\n", 0, error.start) + 1, f"not UTF-8: {error.reason}") from None
    if json:
        text = _WANTS_ESCAPE.sub(lambda found: f"\\u{ord(found[0]):04x}", _PAIR.sub(_character, text.replace("\t", " ")))
    values = _Values()
    try:
        loader = _Loader(text)
        try:
            while loader.check_node() and (node := loader.get_node()):
                yield values.document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        detail = ": ".join(filter(None, (error.context, error.problem)))
        raise ParseError(mark.line + 1 if mark else 1, detail) from None
    except yaml.reader.ReaderError as error:
        raise ParseError(
            text.count("\n", 0, error.position) + 1, f"a character that YAML does not allow: {error.reason}"
        ) from None
    except RecursionError:
        raise ParseError(1, "nested too deep") from None


def _character(pair: re.Match[str]) -> str:
    high, low = (int(pair.group(index), 16) for index in (2, 3))
    return pair.group(1) + chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))


class _Values:
    """Makes data of nodes, counting what it makes over all documents of a text."""

    def __init__(self) -> None:
        self._made = 0

    def document(self, node: yaml.Node) -> Parsed:
        lines = {"": _line(node)}
        return Parsed(self._value(node, "", lines, 0), lines)

    def _value(self, node: yaml.Node, pointer: str, lines: dict[str, int], depth: int) -> Any:
        self._made += 1
        if self._made > MAX_VALUES:
            raise ParseError(_line(node), f"more than {MAX_VALUES} values, those of aliases included")
        if depth > MAX_DEPTH:
            raise ParseError(_line(node), f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._members(node, pointer, lines, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            found = []
            for index, item in enumerate(node.value):
                lines[f"{pointer}/{index}"] = _line(item)
                found.append(self._value(item, f"{pointer}/{index}", lines, depth + 1))
            return found
        return _scalar(node)

    def _members(self, node: yaml.MappingNode, pointer: str, lines: dict[str, int], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ParseError(_line(key), "the name of a member must be a text")
            name: str = key.value
            place = f"{pointer}/{escape(name)}"
            if name in found:
                raise ParseError(_line(key), f"{name!r:.80} stands here again; it is in line {lines[place]} already")
            lines[place] = _line(key)
            found[name] = self._value(item, place, lines, depth + 1)
        return found


def _scalar(node: yaml.Node) -> Any:
    text: Any = node.value
    try:
        match node.tag.removeprefix(_TAG) if isinstance(node, yaml.ScalarNode) else "":
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text, 0 if text[:2] in ("0o", "0x") else 10)
            case "float" if math.isfinite(number := float(text)):
                return number
    except ValueError:
        raise ParseError(_line(node), f"{text!r:.40} is no value of the type {node.tag}") from None
    if node.tag == _TAG + "float":
        raise ParseError(_line(node), f"{text!r:.40} is out of range")
    raise ParseError(_line(node), f"the tag {node.tag!r:.80} is not allowed")


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line
    return line + 1
