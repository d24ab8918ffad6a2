"""How often a JSON Schema looks at one value. Pure.

Definitions that each refer twice to the next one double the work with each of them: 24 of them, in a kilobyte of schema, look 16
million times at every value. What is counted is the longest way: all that is held against the same value (``$ref``, ``allOf``
...), and the costliest member below it. Recursion counts once: how far it goes is up to the data, whose depth is bounded.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

_SAME = ("not", "if", "then", "else", "allOf", "anyOf", "oneOf")
_SAME_NAMED = ("dependentSchemas", "dependencies")
"""Keywords whose schemas are held against the same value: schemas or lists of them; objects of them."""
_BELOW = (
    "additionalProperties", "unevaluatedProperties", "propertyNames", "contains", "additionalItems", "unevaluatedItems",
)  # fmt: skip
_BELOW_NAMED = ("patternProperties",)
"""Keywords whose schemas may all be held against one member."""
_ONE_BELOW = ("items", "prefixItems")
_ONE_BELOW_NAMED = ("properties",)
"""Keywords of whose schemas one is held against a member."""
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


def cost(schema: Any) -> int:
    """How many schemas are held against one value, at most.

    Raises:
        RecursionError: the references are chained too deep to be followed.
        ValueError: a reference is no URI.
    """
    return _Walk(schema).cost(schema)


class _Walk:
    def __init__(self, schema: Any) -> None:
        self._found: dict[int, int] = {}
        self._bases: dict[int, str] = {}
        """The URI that the references of a schema are relative to."""
        self._named: dict[str, Any] = {}
        """Schemas by URI."""
        self._name(schema, "")

    def _name(self, value: Any, base: str) -> None:
        if isinstance(value, list):
            for each in value:
                self._name(each, base)
        if not isinstance(value, dict):
            return
        if isinstance(given := value.get("$id", value.get("id")), str):
            base = _join(base, given.removesuffix("#"))
        if base not in self._named:
            self._named[base] = value
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(anchor := value.get(keyword), str):
                self._named[f"{base}#{anchor}"] = value
        self._bases[id(value)] = base
        for each in value.values():
            self._name(each, base)

    def cost(self, schema: Any) -> int:
        if not isinstance(schema, dict):
            return 1
        known = self._found.get(id(schema))
        if known is not None:
            return known
        self._found[id(schema)] = 1  # what refers back to it
        found = 1 + sum(map(self.cost, self._targets(schema)))
        found += sum(map(self.cost, _under(schema, _SAME + _BELOW, _SAME_NAMED + _BELOW_NAMED)))
        found += max(map(self.cost, _under(schema, (), _ONE_BELOW_NAMED)), default=0)
        found += max(map(self.cost, _under(schema, _ONE_BELOW, ())), default=0)
        self._found[id(schema)] = found
        return found

    def _targets(self, schema: dict[str, Any]) -> Iterator[Any]:
        for keyword in _REFERENCES:
            if isinstance(reference := schema.get(keyword), str):
                yield self._target(reference, self._bases[id(schema)])

    def _target(self, reference: str, base: str) -> Any:
        """What a reference leads to; None: nothing that is in the schema."""
        uri = _join(base, reference)
        if uri.removesuffix("#") in self._named:
            return self._named[uri.removesuffix("#")]
        root, pointer = urldefrag(uri)
        found = self._named.get(root)
        for step in unquote(pointer).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict):
                found = found.get(name)
            elif isinstance(found, list) and name.isdigit() and int(name) < len(found):
                found = found[int(name)]
            else:
                return None
        return found


def _join(base: str, reference: str) -> str:
    """``urljoin``, which knows nothing of ``urn:``, and for fragments need not."""
    return urldefrag(base).url + reference if reference.startswith("#") else urljoin(base, reference)


def _under(schema: dict[str, Any], plain: Sequence[str], named: Sequence[str]) -> Iterator[Any]:
    """The schemas under some keywords."""
    for keyword in plain:
        value = schema.get(keyword)
        if isinstance(value, list):
            yield from value
        elif value is not None:
            yield value
    for keyword in named:
        if isinstance(value := schema.get(keyword), dict):
            yield from value.values()
