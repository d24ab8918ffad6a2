"""The OpenAPI document, put together from its YAML files and from the Structs."""

from collections.abc import Iterator
from importlib import resources
from typing import Any, get_args

import yaml

from services.control.access import OPEN, SCOPES
from services.control.api_keys import NewKey, Rotation
from services.control.api_revisions import Rollback, RollbackOfAll
from services.control.api_trials import Backtest, Explain, RuleTest, Sample
from services.control.openapi.structs import components, reference
from tas_mcp import __version__
from tas_mcp.callers import SCOPES as ALL_SCOPES
from tas_mcp.http import STATUS, Problem
from tas_mcp.messages import Attempt, AuditRecord, Trial
from tas_mcp.routing import OPERATORS
from tas_mcp.routing.conditions import CEL
from tas_mcp.schemas import SchemaDocument
from tas_mcp.targets import AnyTarget

STRUCTS = (
    AnyTarget,
    Rollback,
    RollbackOfAll,
    Sample,
    RuleTest,
    Backtest,
    Explain,
    Trial,
    SchemaDocument,
    NewKey,
    Rotation,
    Problem,
    Attempt,
    AuditRecord,
)
"""What defines the schemas, together with all that these hold."""

GROUPS = (
    "events",
    "streams",
    "targets",
    "revisions",
    "trials",
    "schemas",
    "dead_letters",
    "keys",
    "secrets",
    "audit",
    "operations",
)
"""The files of routes, in the order in which they are shown."""


def document() -> dict[str, Any]:
    """The whole description, decoded.

    Raises:
        ValueError: two files say different things of the same member, one says something of a Struct that has it not, or nobody
            says who may use a route.
    """
    found: dict[str, Any] = {}
    for name in ("common", *GROUPS):
        _merge(found, _read(name), "")
    found["info"]["version"] = __version__
    _merge(found["components"]["schemas"], _schemas(found["structs"]), "/components/schemas")
    for method, path, operation in operations(found):
        _secure(operation, (method, path))
    order = ("openapi", "info", "servers", "security", "tags", "paths", "components")
    return {name: found[name] for name in order}


def _secure(operation: dict[str, Any], route: tuple[str, str]) -> None:
    """Say which scope an operation needs: by the table of our own routes, or the ``x-scope`` of another service's."""
    if route in OPEN or ("Operations" in operation["tags"] and route not in SCOPES):
        operation["security"] = []
        return
    scope = operation.setdefault("x-scope", SCOPES.get(route))
    if scope not in ALL_SCOPES:
        raise ValueError(f"openapi: {' '.join(route)} needs an x-scope: one of {', '.join(sorted(ALL_SCOPES))}")
    operation["description"] = f"{operation.get('description', '').strip()}\n\nNeeds the scope `{scope}`.".strip()
    for status, name in (("401", "Unauthorized"), ("403", "Forbidden")):
        operation["responses"].setdefault(status, {"$ref": f"#/components/responses/{name}"})


def _schemas(notes: dict[str, Any]) -> dict[str, Any]:
    """The schemas that come from Structs."""
    found = components(STRUCTS, notes)
    operator = found["Condition"]["properties"]["operator"]
    del operator["anyOf"]
    operator["enum"] = [*OPERATORS, CEL]
    found["Problem"]["properties"]["code"]["examples"] = sorted(STATUS)
    kinds = {tag: kind.__name__ for kind in get_args(AnyTarget) if (tag := kind.__struct_config__.tag)}
    for name in kinds.values():
        found[name]["properties"]["status"] = reference("TargetStatus")
    mapping = {tag: reference(name)["$ref"] for tag, name in kinds.items()}
    members = [reference(name) for name in kinds.values()]
    found["Target"] = {"anyOf": members, "discriminator": {"propertyName": "type", "mapping": mapping}}
    return found


def operations(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method (capitals), path and description of each operation of a document."""
    for path, item in found["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield method.upper(), path, operation


def _read(name: str) -> Any:
    text = resources.files(__package__).joinpath(name + ".yaml").read_text("utf-8")
    return yaml.load(text, yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader)  # noqa: S506  (both are safe)


def _merge(into: dict[str, Any], more: dict[str, Any], where: str) -> None:
    """Add what ``more`` says. Lists are joined."""
    for key, value in more.items():
        here, current = f"{where}/{key}", into.get(key)
        if isinstance(current, dict) and isinstance(value, dict):
            _merge(current, value, here)
        elif isinstance(current, list) and isinstance(value, list):
            current += value
        elif key in into and current != value:
            raise ValueError(f"openapi: {here} is said twice: {current!r:.80} and {value!r:.80}")
        else:
            into[key] = value
