"""The description of the API is sound in itself. That it is true is shown in ``tests/e2e/test_openapi.py``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from schemathesis.specs.openapi.definitions import OPENAPI_31

from services.control.openapi import document
from services.control.openapi.document import GROUPS, operations

FOLDER = Path(__file__).resolve().parents[4] / "services" / "control" / "openapi"
DOCUMENT = document()
COMPONENTS = DOCUMENT["components"]


def parts(part: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a document, with its place."""
    yield where, part
    if isinstance(part, dict):
        for key, value in part.items():
            yield from parts(value, f"{where}/{key}")
    elif isinstance(part, list):
        for index, value in enumerate(part):
            yield from parts(value, f"{where}/{index}")


def resolved(part: Any) -> Any:
    """What a reference stands for."""
    while isinstance(part, dict) and "$ref" in part:
        found: Any = DOCUMENT
        for key in part["$ref"].removeprefix("#/").split("/"):
            found = found[key]
        part = found
    return part


def flaws(schema: Any, example: Any) -> list[str]:
    """What is wrong with an example, by its schema."""
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "components": COMPONENTS}
    return [f"{error.message} at {error.instance_path}" for error in jsonschema_rs.iter_errors(whole, example)]


def examples() -> Iterator[tuple[str, Any, Any]]:
    """Every example of a body or a parameter, with its place and its schema."""
    for where, part in parts(DOCUMENT):
        if isinstance(part, dict) and isinstance(part.get("schema"), dict):
            given = {name: each["value"] for name, each in part.get("examples", {}).items()}
            if "example" in part:
                given["example"] = part["example"]
            yield from ((f"{where}/{name}", part["schema"], example) for name, example in given.items())


def test_it_is_an_openapi_document() -> None:
    assert [error.message for error in jsonschema_rs.iter_errors(OPENAPI_31, DOCUMENT)] == []


def test_every_schema_is_one() -> None:
    for schema in COMPONENTS["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_every_reference_leads_somewhere() -> None:
    assert [resolved(part) for _, part in parts(DOCUMENT) if isinstance(part, dict) and "$ref" in part]


def test_no_text_was_cut_at_a_comma() -> None:
    """``{description: one, two}`` is YAML for two members; such a text stands in quotes."""
    cut = [where for where, part in parts(DOCUMENT) if part is None and where.rpartition("/")[2].count(" ")]
    assert cut == []
    assert [where for where, part in parts(DOCUMENT) if where.endswith("/description") and not isinstance(part, str | dict)] == []


@pytest.mark.parametrize("name", ["common", *GROUPS])
def test_no_member_is_written_twice_in_a_mapping(name: str) -> None:
    """YAML would silently keep the last."""
    twice = []
    pending = [yaml.compose((FOLDER / f"{name}.yaml").read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            twice += [(key.value, key.start_mark.line + 1) for key, _ in node.value if keys.count(key.value) > 1]
            pending += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value
    assert twice == []


@pytest.mark.parametrize(("where", "schema", "example"), [pytest.param(*each, id=each[0]) for each in examples()])
def test_examples_are_valid(where: str, schema: Any, example: Any) -> None:
    assert flaws(schema, example) == []


def test_examples_of_schemas_are_valid() -> None:
    found = [
        (where, part)
        for where, part in parts(COMPONENTS["schemas"])
        if isinstance(part, dict) and isinstance(part.get("examples"), list)
    ]
    assert found
    assert [(where, flaw) for where, part in found for each in part["examples"] for flaw in flaws(part, each)] == []


def test_an_example_that_is_not_valid_is_seen() -> None:
    assert flaws({"$ref": "#/components/schemas/Event"}, {"event_type": "a"}) != []


def test_every_operation_says_what_it_is() -> None:
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    ids = [operation["operationId"] for _, _, operation in operations(DOCUMENT)]
    assert len(ids) == len(set(ids))
    for _, _, operation in operations(DOCUMENT):
        assert operation["summary"]
        assert set(operation["tags"]) <= tags


def test_every_parameter_is_described() -> None:
    for _, part in parts(DOCUMENT["paths"]):
        for parameter in part.get("parameters", []) if isinstance(part, dict) else []:
            assert resolved(parameter)["description"]


def test_every_member_of_a_schema_is_described() -> None:
    """That of a Struct's field stands under ``structs:`` in the file of its group."""
    told = ("description", "const", "enum")
    missing = [
        f"{name}.{member}"
        for name, schema in COMPONENTS["schemas"].items()
        for member, part in schema.get("properties", {}).items()
        if not any(word in part or word in resolved(part) for word in told)
    ]
    assert missing == []
