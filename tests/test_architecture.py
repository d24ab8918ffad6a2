"""The rules of the layout, read from the syntax trees: who may import whom, what is pure, who owns a library.

A rule is a function from one module to the lines that break it. Each is tried on made-up sources that break it, so that
no rule can be blind.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

PURE = (
    "tas_mcp.messages",
    "tas_mcp.subjects",
    "tas_mcp.errors",
    "tas_mcp.callers",
    "tas_mcp.chain",
    "tas_mcp.auth.certificates",
    "tas_mcp.auth.credentials",
    "tas_mcp.auth.failures",
    "tas_mcp.auth.keys",
    "tas_mcp.durations",
    "tas_mcp.targets",
    "tas_mcp.validation",
    "tas_mcp.routing",
    "tas_mcp.schemas",
    "tas_mcp.schema_cost",
    "services.control.difference",
    "tas_mcp.target_files.references",
    "services.control.drafts",
    "services.forward.addresses",
    "services.forward.requests",
    "services.forward.breaker",
    "tas_mcp.rate",
    "tas_mcp.recent",
    "tas_mcp.networks",
    "tas_mcp.origin",
    "tas_mcp.status",
    "services.forward.concurrency",
    "services.forward.redaction",
    "services.forward.verdict",
    "services.forward.retry",
    "services.forward.cloudevents",
    "services.forward.formats",
    "services.ingest.cloudevents",
    "services.ingest.compression",
    "services.ingest.filters",
    "services.ingest.forms",
    "services.ingest.grpc.events",
    "services.ingest.heads",
    "services.ingest.pages",
    "services.ingest.paths",
    "services.ingest.preferences",
    "services.ingest.rates",
    "services.ingest.names",
    "tas_mcp.v1",
    "tas_mcp.submission",
    "tas_mcp.sealing",
    "tas_mcp.signature",
)
"""These and all below them do no I/O and take clock and randomness as arguments."""

PURE_REQUIRED = ("tas_mcp.messages", "tas_mcp.subjects", "tas_mcp.errors", "tas_mcp.routing")

PURE_LIBRARIES = frozenset(
    """
    __future__ abc base64 binascii bisect collections contextlib contextvars copy dataclasses datetime decimal difflib enum
    fnmatch functools hashlib heapq hmac ipaddress itertools json keyword math operator random re string struct sys textwrap types
    typing unicodedata urllib.parse zlib
    cel cryptography google.protobuf httptools jsonata jsonschema_rs liquid msgspec re2 tenacity
    """.split()
)

IMPURE = re.compile(
    r"time\.|random\.(?!Random$)|sys\.(?![gs]etrecursionlimit$)|datetime\.(datetime|date)\.(now|utcnow|today)$|(open|input|print|exec|eval|__import__)$"
)
"""Names that a pure module does not speak. ``random.Random`` may be named (as a type), not made."""

OWNERS = {
    "aiokafka": ("services.forward.targets.kafka",),
    "cel": ("tas_mcp.routing",),
    "cryptography": ("tas_mcp.signature", "tas_mcp.sealing", "tas_mcp.tls"),
    "grpc": ("services.ingest.grpc", "services.forward.targets.grpc"),
    "httptools": ("services.ingest.heads", "services.forward.connection"),
    "jsonata": ("tas_mcp.routing",),
    "jwt": ("tas_mcp.auth.tokens",),
    "jsonschema_rs": ("tas_mcp.schemas",),
    "liquid": ("tas_mcp.routing",),
    "nats": ("tas_mcp.broker",),
    "opentelemetry": ("tas_mcp.tracing",),
    "nkeys": ("tas_mcp.broker",),
    "prometheus_client": ("tas_mcp.telemetry", "tas_mcp.metrics"),
    "re2": ("tas_mcp.routing",),
    "structlog": ("tas_mcp.telemetry",),
    "tenacity": ("tas_mcp.broker", "services.forward.retry"),
    "typer": ("services.cli",),
    "yaml": ("tas_mcp.target_files", "services.control.openapi"),
}
"""Library -> the modules (and all below them) that may import it."""

MAY_IMPORT: dict[str, tuple[str, ...] | None] = {"dev": None, "cli": ("dev",)}
"""Service -> the other services that it may import (``None``: all). Not listed: none."""


class Module(NamedTuple):
    name: str
    tree: ast.Module
    is_package: bool = False


class Use(NamedTuple):
    """A dotted name that a module imports or speaks, and where."""

    name: str
    line: int


Rule = Callable[[Module], Iterator[Use]]


def below(name: str, *roots: str) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def imports(module: Module) -> Iterator[Use]:
    """Everything imported, absolute. ``from a import b`` counts as ``a`` and ``a.b``: b may be a module."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Import():
                yield from (Use(alias.name, node.lineno) for alias in node.names)
            case ast.ImportFrom():
                origin = absolute(module, node)
                yield Use(origin, node.lineno)
                yield from (Use(f"{origin}.{alias.name}", node.lineno) for alias in node.names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str() as name), *_],
            ):
                yield Use(name, node.lineno)


def absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    base = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*base, *(node.module or "").split(".")]).rstrip(".")


def spoken(module: Module) -> Iterator[Use]:
    """Every dotted name that is used, its first part resolved through the imports; a call of it ends with ``()``."""
    origins = dict(aliases(module))
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and (name := dotted(node.func, origins)):
            yield Use(name + "()", node.lineno)
        elif isinstance(node, ast.Name | ast.Attribute) and (name := dotted(node, origins)):
            yield Use(name, node.lineno)


def aliases(module: Module) -> Iterator[tuple[str, str]]:
    """What each imported name stands for."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Import():
                yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)
            case ast.ImportFrom():
                origin = absolute(module, node)
                yield from ((alias.asname or alias.name, f"{origin}.{alias.name}") for alias in node.names)


def dotted(node: ast.expr, origins: dict[str, str]) -> str:
    match node:
        case ast.Name(id=name):
            return origins.get(name, name)
        case ast.Attribute(value=value, attr=attribute):
            owner = dotted(value, origins)
            return f"{owner}.{attribute}" if owner else ""
    return ""


def shared_knows_no_service(module: Module) -> Iterator[Use]:
    if below(module.name, "tas_mcp"):
        yield from (use for use in imports(module) if below(use.name, "services"))


def services_know_no_other(module: Module) -> Iterator[Use]:
    if not below(module.name, "services"):
        return
    own = module.name.split(".")[1] if module.name != "services" else ""
    allowed = MAY_IMPORT.get(own, ())
    if allowed is None:
        return
    mine = ["services." + service for service in (own, *allowed)]
    for use in imports(module):
        if below(use.name, "services") and use.name != "services" and not below(use.name, *mine):
            yield use


def pure_does_no_io(module: Module) -> Iterator[Use]:
    if not below(module.name, *PURE):
        return
    for use in imports(module):
        if use.name not in ("tas_mcp", "services", "urllib") and not below(use.name, *PURE_LIBRARIES, *PURE):
            yield use
    for use in spoken(module):
        if IMPURE.match(use.name.removesuffix("()")) or use.name == "random.Random()":
            yield use


def libraries_have_one_owner(module: Module) -> Iterator[Use]:
    for use in imports(module):
        library = use.name.split(".")[0]
        if library in OWNERS and not below(module.name, *OWNERS[library]):
            yield use


RULES = (shared_knows_no_service, services_know_no_other, pure_does_no_io, libraries_have_one_owner)


def modules() -> Iterator[Module]:
    for source, package in ((ROOT / "shared", "tas_mcp"), (ROOT, "services")):
        for path in sorted((source / package).rglob("*.py")):
            parts = path.relative_to(source).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            if not below(name, "tas_mcp.v1"):  # generated
                yield Module(name, ast.parse(path.read_text(), str(path)), is_package)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: Rule) -> None:
    broken = [f"{module.name}:{use.line} {use.name}" for module in modules() for use in rule(module)]
    assert broken == []


def test_the_pure_core_is_there() -> None:
    names = [module.name for module in modules()]
    assert [core for core in PURE_REQUIRED if not any(below(name, core) for name in names)] == []


def source(name: str, text: str, *, is_package: bool = False) -> Module:
    return Module(name, ast.parse(text), is_package)


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (shared_knows_no_service, "tas_mcp.settings", "import services.ingest"),
        (shared_knows_no_service, "tas_mcp.settings", "from services import ingest"),
        (shared_knows_no_service, "tas_mcp.broker.publisher", "def f():\n    from services.ingest.main import main"),
        (shared_knows_no_service, "tas_mcp.settings", "import importlib\nimportlib.import_module('services.ingest')"),
        (services_know_no_other, "services.ingest.http", "from services.forward import lane"),
        (services_know_no_other, "services.ingest.http", "from services import forward"),
        (services_know_no_other, "services.ingest.http", "from ..forward import lane"),
        (services_know_no_other, "services.ingest.http", "import services.dev"),
        (services_know_no_other, "services.cli.main", "import services.control.main"),
        (services_know_no_other, "services.cli", "from services.devices import x"),
        (pure_does_no_io, "tas_mcp.messages", "import os"),
        (pure_does_no_io, "tas_mcp.messages", "import asyncio"),
        (pure_does_no_io, "tas_mcp.errors", "import urllib.request"),
        (pure_does_no_io, "tas_mcp.errors", "from urllib import request"),
        (pure_does_no_io, "tas_mcp.errors", "from tas_mcp import broker"),
        (pure_does_no_io, "tas_mcp.errors", "from .broker import Publisher"),
        (pure_does_no_io, "tas_mcp.routing", "from .. import broker"),
        (pure_does_no_io, "tas_mcp.routing.rules", "from time import monotonic as clock"),
        (pure_does_no_io, "tas_mcp.routing.rules", "import time as t\nt.time()"),
        (pure_does_no_io, "tas_mcp.routing.rules", "import random as r\nx = r.uniform(0, 1)"),
        (pure_does_no_io, "tas_mcp.routing.rules", "from random import Random\nrandom = Random()"),
        (pure_does_no_io, "tas_mcp.routing.rules", "def f(jitter=random): pass\nimport random\nf(random.random)"),
        (pure_does_no_io, "tas_mcp.routing.rules", "from datetime import datetime as d, UTC\nd.now(UTC)"),
        (pure_does_no_io, "tas_mcp.routing.rules", "import datetime\ndatetime.date.today()"),
        (pure_does_no_io, "services.forward.retry", "open('/etc/passwd')"),
        (pure_does_no_io, "tas_mcp.routing.rules", "import sys\nsys.stdout.write('x')"),
        (libraries_have_one_owner, "tas_mcp.documents", "import nats"),
        (libraries_have_one_owner, "services.ingest.http", "from nats.js import api"),
        (libraries_have_one_owner, "services.ingest.http", "from prometheus_client import Counter"),
        (libraries_have_one_owner, "services.ingest.http", "import structlog"),
        (libraries_have_one_owner, "services.ingest.http", "import httptools"),
        (libraries_have_one_owner, "services.ingest.http", "import tenacity"),
    ],
)
def test_a_rule_sees_what_breaks_it(rule: Rule, name: str, text: str) -> None:
    assert list(rule(source(name, text))) != []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tas_mcp.broker.publisher", "import nats\nimport asyncio\nimport time\nfrom tas_mcp import subjects"),
        ("tas_mcp.telemetry", "import structlog\nfrom prometheus_client import Counter"),
        ("tas_mcp.messages", "import hashlib\nimport msgspec\nfrom urllib.parse import quote\nfrom . import errors"),
        (
            "tas_mcp.routing.rules",
            "import random\nfrom tas_mcp.errors import Flaw\ndef f(r: random.Random): r.random()",
        ),
        ("tas_mcp.routing.rules", "from datetime import datetime, UTC\ndatetime.fromtimestamp(0, UTC)"),
        ("services.forward.connection", "import httptools\nfrom services.forward import lane\nfrom . import settings"),
        ("services.dev.main", "from services.ingest.main import ingest\nimport services.forward.main"),
        ("services.cli.main", "import typer\nfrom services.dev.main import main\nfrom services.cli import http"),
        ("services.forward.lane", "import time\ntime.monotonic()"),
    ],
)
def test_the_rules_leave_good_code_alone(name: str, text: str) -> None:
    assert [use for rule in RULES for use in rule(source(name, text))] == []


def test_relative_imports_are_resolved() -> None:
    def first(name: str, text: str, *, is_package: bool = False) -> str:
        return next(imports(source(name, text, is_package=is_package))).name

    assert first("services.ingest.http", "from ..forward import lane") == "services.forward"
    assert first("services.ingest.http", "from . import lane") == "services.ingest"
    assert first("services.ingest", "from .http import lane", is_package=True) == "services.ingest.http"
    assert first("services.ingest", "from .. import forward", is_package=True) == "services"
