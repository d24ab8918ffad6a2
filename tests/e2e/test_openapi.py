"""What ``/openapi.json`` says is what the gateway does: every route is described, every example works, and whatever is sent to
it, the answer is one that was announced."""

import asyncio
import itertools
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from msgspec import Raw, Struct
from schemathesis import BaseSchema, Case, SerializationContext
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.control.openapi import document
from services.control.openapi.document import operations
from services.control.openapi.structs import components
from services.dev.main import SERVICES
from services.ingest import answers, intake, waits
from tas_mcp import subjects, submission
from tas_mcp.messages import EventError, RefusedEvent, encode
from tests.e2e import gateway
from tests.nats_server import NatsServer
from tests.services.control.rig import DEAD, KEYS, REJECTED, SCHEMAS, TARGETS, event, letter, target
from tests.shared.rig import linked

DOCUMENT = document()
EXAMPLES = int(os.environ.get("TAS_TEST_API_EXAMPLES", "20"))
"""How many random requests an operation gets; more come from the limits and examples of what it takes."""
LARGE = ["createTarget", "putTarget"]
"""Operations that take a whole target. There are thousands of limits in one, so these get more random requests instead."""
ENDLESS = {"openWebSocket": "/api/v1/events/ws", "streamEvents": "/api/v1/events/stream"}
"""Operations whose answers go on; their own tests are in ``tests/services/ingest``."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@schemathesis.serializer("application/x-ndjson")
def _lines(_: SerializationContext, value: Any) -> bytes:
    """Schemathesis knows no lines of JSON."""
    return value if isinstance(value, bytes) else str(value).encode()


def loaded(**phases: Any) -> BaseSchema:
    """The document as schemathesis has it; ``phases`` says where its requests come from."""
    generation = {"deterministic": bool(os.environ.get("CI"))}
    return schemathesis.openapi.from_dict(
        DOCUMENT, config=schemathesis.Config.from_dict({"generation": generation, "phases": phases})
    )


api = loaded()
_numbers = itertools.count(1)


class Served(NamedTuple):
    base: str
    nats_url: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """All but forward: nothing is sent to the endpoints that a generator makes up."""
    server = NatsServer(tmp_path_factory.mktemp("nats")).start()
    try:
        with gateway.running(server.url, [name for name in SERVICES if name != "forward"]) as found:
            yield Served(found.base, server.url)
    finally:
        server.kill()


def test_every_route_is_described_and_nothing_else(nats: NatsServer) -> None:
    """Who adds a route describes it in ``services/control/openapi/<group>.yaml``."""
    with gateway.running(nats.url, list(SERVICES)) as found:
        registered = {(route.method, re.sub(r"{(\w+):[^{}]*}", r"{\1}", route.path)) for route in found.routes}
    described = {(method, path) for method, path, _ in operations(DOCUMENT)}
    assert registered - described == set()
    assert described - registered == set()


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (submission.Submission, "Event"),
        (intake.Accepted, "Accepted"),
        (answers._Waited, "Waited"),
        (waits.Progress, "Progress"),
        (answers._Batch, "BatchResult"),
        (answers.Result, "EventResult"),
    ],
)
def test_the_shapes_of_ingest_are_those_of_its_structs(kind: type[Struct], schema: str) -> None:
    """They are written by hand: control does not know ingest."""
    derived = components([kind])[kind.__name__.lstrip("_")]
    written = DOCUMENT["components"]["schemas"][schema]
    assert written["properties"].keys() == derived["properties"].keys()
    assert set(derived["required"]) <= set(written["required"])


@api.exclude(operation_id=[*LARGE, *ENDLESS]).parametrize()
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
def test_every_answer_is_one_that_was_announced(case: Case[Any], served: Served) -> None:
    check(case, served)


@loaded(coverage={"enabled": False}).include(operation_id=LARGE).parametrize()
@settings(max_examples=5 * EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
def test_every_answer_to_a_target_is_one_that_was_announced(case: Case[Any], served: Served) -> None:
    check(case, served)


def check(case: Case[Any], served: Served) -> None:
    answer = case.call(base_url=served.base, timeout=60)
    if answer.status_code == 400 and b"Got more than" in answer.content:
        return  # a request line that is too long for HTTP as the server reads it never comes to a route
    case.validate_response(answer, checks=CHECKS)


NEEDS_FORWARD = (TARGETS + "/{id}/test",)
"""Shown in ``test_flow.py``, where forward runs."""


@pytest.mark.parametrize(
    ("method", "path"),
    [(method, path) for method, path, _ in operations(DOCUMENT) if path not in (*NEEDS_FORWARD, *ENDLESS.values())],
)
def test_the_examples_of_an_operation_work(served: Served, method: str, path: str) -> None:
    operation = api[path][method]
    for media_type, example in bodies(DOCUMENT["paths"][path][method.lower()]):
        known = prepare(served)
        ids = {DEAD: known["dead"], REJECTED: known["rejected"], KEYS: known["key"]}
        values = {**known, "id": next((found for root, found in ids.items() if path.startswith(root)), known["id"])}
        parameters = {each.name: values.get(each.name, each.definition.get("example")) for each in operation.path_parameters}
        body = example
        if isinstance(example, dict):
            fresh = {"id": "new-" + known["id"], "revision": int(known["number"])}
            body = {name: fresh.get(name, value) for name, value in example.items()}
        sent = {} if media_type is None else {"body": body, "media_type": media_type}
        answer = operation.Case(path_parameters=parameters, **sent).call_and_validate(base_url=served.base, checks=CHECKS)
        assert answer.status_code < 300, answer.text


def prepare(served: Served) -> dict[str, str]:
    """Make what an example is about: a target with a revision, a dead letter, a schema, a refused event, a key. Their names,
    which nobody can know before. Schemas that were made up before go: they could refuse the examples."""
    target_id = f"example-{next(_numbers)}"
    stored = requests.put(f"{served.base}{TARGETS}/{target_id}", json=target(target_id), timeout=60)
    revision = stored.headers["ETag"].strip('"')
    for schema in requests.get(f"{served.base}{SCHEMAS}?limit=1000", timeout=60).json()["items"]:
        requests.delete(f"{served.base}{SCHEMAS}/{quote(schema['event_type'], safe='')}", timeout=60).raise_for_status()
    requests.put(f"{served.base}{SCHEMAS}/{target_id}", json={"schema": True}, timeout=60).raise_for_status()
    dead, rejected = asyncio.run(bury(served.nats_url, target_id))
    key = requests.post(f"{served.base}{KEYS}", json={"name": target_id, "scopes": ["admin"]}, timeout=60).json()["id"]
    return {
        "key": key,
        "id": target_id,
        "name": target_id,
        "number": revision,
        "other": revision,
        "dead": dead,
        "rejected": rejected,
    }


async def bury(url: str, target_id: str) -> tuple[str, str]:
    """A dead letter and a refused event."""
    refused = RefusedEvent(event=Raw(encode(event())), errors=[EventError("/data", "no")], schema="a.*", revision=1, at=1.0)
    async with linked(url) as broker:
        dead = await broker.publisher.store(subjects.dead(target_id), encode(letter(target_id, 1)))
        rejected = await broker.publisher.store(subjects.rejected("a.b"), encode(refused))
        return str(dead.seq), str(rejected.seq)


def bodies(operation: dict[str, Any]) -> Iterator[tuple[str | None, Any]]:
    """Every example of a body, with its media type; (None, None) for an operation without any."""
    body = operation.get("requestBody", {})
    if "$ref" in body:
        body = DOCUMENT["components"]["requestBodies"][body["$ref"].rpartition("/")[2]]
    if not body:
        yield None, None
    for media_type, content in body.get("content", {}).items():
        given = [content["example"]] if "example" in content else [each["value"] for each in content["examples"].values()]
        yield from ((media_type, example) for example in given)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("PATCH", TARGETS, 405), ("GET", "/%00/a", 404)]
)
def test_what_is_not_there_is_a_problem_too(served: Served, method: str, path: str, status: int) -> None:
    answer = requests.request(method, served.base + path, timeout=60)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert answer.json()["status"] == status
