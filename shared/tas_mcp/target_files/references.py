"""References of texts to environment variables. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from tas_mcp.validation import escape

_REFERENCE = re.compile(r"\$(\$?)\{([A-Za-z_][A-Za-z0-9_]*)\}")


def resolve(document: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The document with ``${NAME}`` replaced in all texts but those of the rules, whose languages have dollars and braces of
    their own; and the variables that are not set, by the pointer of the text that refers to them."""
    unset: dict[str, str] = {}

    def value(found: Any, pointer: str) -> Any:
        if isinstance(found, dict):
            return {name: value(item, f"{pointer}/{escape(name)}") for name, item in found.items()}
        if isinstance(found, list):
            return [value(item, f"{pointer}/{index}") for index, item in enumerate(found)]
        return text(found, pointer) if isinstance(found, str) else found

    def text(found: str, pointer: str) -> str:
        def replacement(reference: re.Match[str]) -> str:
            escaped, name = reference.groups()
            if escaped:
                return reference[0][1:]
            if name not in environ:
                unset[pointer] = name
            return environ.get(name, reference[0])

        return _REFERENCE.sub(replacement, found)

    resolved = {name: item if name == "rules" else value(item, f"/{escape(name)}") for name, item in document.items()}
    return resolved, unset
