"""What the documents say is tried: the commands of the README are run, the examples of the rest are decoded."""

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from google.protobuf import json_format, message_factory

from services.control.drafts import draft
from services.control.samples import sample
from services.control.trials import judged
from tas_mcp import schemas, target_files, targets
from tas_mcp.messages import Event
from tas_mcp.routing import (
    OPERATORS,
    Condition,
    ConditionError,
    Rule,
    View,
    compile_condition,
    compile_rules,
    compile_transform,
)
from tas_mcp.v1 import mcp_pb2
from tests.e2e.test_dev import Dev
from tests.otlp import collecting

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RULES = ROOT / "docs" / "rules.md"
PROTOCOLS = ROOT / "docs" / "protocols.md"

PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----\\n\.\.\.")
"""How certificates are shown."""


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a document."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


def commands(document: Path) -> list[list[str]]:
    """The curl commands of a document, as words."""
    parts = [part for block in blocks(document, "sh") for part in re.split(r"^(?=curl )", block, flags=re.MULTILINE)]
    return [shlex.split(part.replace("\\\n", " ")) for part in parts if part.startswith("curl ")]


@pytest.mark.skipif(not shutil.which("curl"), reason="the README's commands are curl's, which is not installed")
def test_the_commands_of_the_readme_work(tmp_path: Path) -> None:
    found = commands(ROOT / "README.md")
    assert len(found) >= 5
    dev = Dev(tmp_path, "--ephemeral", "--demo").running()
    try:
        for command in found:
            words = [word.replace(":8080", f":{dev.ports.http}").replace(":8089", f":{dev.ports.demo}") for word in command]
            done = subprocess.run(
                [*words, "--silent", "--show-error", "--fail-with-body", "--max-time", "20"], capture_output=True, check=False
            )
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            json.loads(done.stdout)
    finally:
        dev.close()


@pytest.mark.skipif(not shutil.which("curl"), reason="the commands are curl's, which is not installed")
def test_the_commands_of_the_protocols_work(tmp_path: Path) -> None:
    """Whole blocks, run by a shell: they have pipes."""
    found = [block for block in blocks(ROOT / "docs" / "protocols.md", "sh") if re.search(r"\bcurl ", block)]
    assert len(found) >= 2
    (tmp_path / ".curlrc").write_text('silent\nshow-error\nfail-with-body\nmax-time = 40\nwrite-out = "\\n"\n')
    dev = Dev(tmp_path, "--ephemeral").running()
    try:
        for block in found:
            script = f"set -euo pipefail\n{block}".replace(":8080", f":{dev.ports.http}")
            env = {**os.environ, "CURL_HOME": str(tmp_path)}
            done = subprocess.run(["bash", "-c", script], capture_output=True, check=False, env=env, cwd=tmp_path)
            assert done.returncode == 0, (block, done.stdout, done.stderr)
            answers = [json.loads(line) for line in done.stdout.splitlines() if line]
            assert len(answers) == len(re.findall(r"\bcurl ", block)), (block, done.stdout)
            assert all(answer.get("rejected", 0) == 0 for answer in answers), (block, answers)
    finally:
        dev.close()


@pytest.mark.skipif(not shutil.which("curl"), reason="the command is curl's, which is not installed")
async def test_the_example_of_traces_works(tmp_path: Path) -> None:
    [block] = [block for block in blocks(ROOT / "docs" / "operations.md", "sh") if "OTEL_" in block]
    *given, name, option = shlex.split(block.partition("\n")[0])
    assert (name, option) == ("tas", "dev")
    environ = dict(word.split("=", 1) for word in given)
    [command] = commands(ROOT / "docs" / "operations.md")
    async with collecting() as collector:
        dev = Dev(tmp_path, "--ephemeral", environ={**environ, **collector.environ})
        try:
            await asyncio.to_thread(dev.running)
            words = [word.replace("localhost:8080", f"127.0.0.1:{dev.ports.http}") for word in command]
            done = await asyncio.to_thread(
                subprocess.run, [*words, "-s"], capture_output=True, check=True, text=True, timeout=120
            )
            assert await asyncio.to_thread(dev.end) == 0
        finally:
            dev.close()
    assert "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-" in done.stdout
    assert {(span.service, span.name, span.trace_id) for span in collector.spans} == {
        (service, name, "4bf92f3577b34da6a3ce929d0e0e4736")
        for service, name in [
            ("tas-ingest", "POST /api/v1/events"),
            ("tas-ingest", "send tas.events"),
            ("tas-process", "process tas.events"),
        ]
    }


def test_the_python_example_of_the_protocols_works(tmp_path: Path) -> None:
    [example] = [block for block in blocks(PROTOCOLS, "python") if "import grpc" in block]
    dev = Dev(tmp_path, "--ephemeral").running()
    try:
        code = example.replace(":50051", f":{dev.ports.grpc}")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, cwd=ROOT, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    finally:
        dev.close()
    lines = done.stdout.splitlines()
    assert sorted(lines[:10]) == [f"{number} []" for number in range(10)]
    assert len(lines) == 10 + 1000
    assert all(line.endswith(' {"amount": 250}') for line in lines[10:])


def grpcurls() -> list[list[str]]:
    """The grpcurl commands of the protocols, as words."""
    parts = [part for block in blocks(PROTOCOLS, "sh") for part in re.split(r"^(?=grpcurl )", block, flags=re.MULTILINE)]
    return [shlex.split(part.replace("\\\n", " ")) for part in parts if part.startswith("grpcurl ")]


def test_what_grpcurl_sends_in_the_documents_are_requests() -> None:
    methods = mcp_pb2.DESCRIPTOR.services_by_name["MCPService"].methods_by_name
    found = grpcurls()
    assert len(found) == 3
    for command in found:
        method = methods[command[-1].removeprefix("mcp.v1.MCPService/")]
        json_format.Parse(command[command.index("-d") + 1], message_factory.GetMessageClass(method.input_type)())


@pytest.mark.skipif(not shutil.which("grpcurl"), reason="the commands are grpcurl's, which is not installed")
def test_the_grpcurl_commands_of_the_protocols_work(tmp_path: Path) -> None:
    dev = Dev(tmp_path, "--ephemeral").running()
    try:
        for command in grpcurls():
            words = [word.replace(":50051", f":{dev.ports.grpc}") for word in command]
            done = subprocess.run(words, capture_output=True, check=False, timeout=120)
            assert done.returncode == 0, (command, done.stderr)
            assert b"order.created" in done.stdout or b"accepted" in done.stdout
    finally:
        dev.close()


def test_targets_in_the_documents_are_valid() -> None:
    found = [block for path in DOCUMENTS for block in blocks(path, "json") if '"endpoint"' in block]
    documents = [json.loads(PEM.sub(r"-----BEGIN \1-----\\nMA==\\n-----END \1-----", block)) for block in found]
    assert documents
    for document in documents:
        if document["config"].get("signing_secret") == "whsec_...":
            document["config"]["signing_secret"] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        targets.check(document)


def test_the_defaults_in_the_documents_are_the_real_ones() -> None:
    document = json.loads(blocks(ROOT / "docs" / "delivery.md", "json")[0])
    config = document.pop("config")
    without = ("rate_limit", "health_check", "expires")
    assert set(without) <= set(config)
    real = json.loads(targets.encode(targets.check({**document, "config": {}})[0]))["config"]
    said = {key: value for key, value in config.items() if key not in without}
    real["retry"].pop("exponential")
    assert said == {key: real[key] for key in said}


def test_the_schema_of_the_documents_refuses_their_event() -> None:
    found = [json.loads(block) for block in blocks(ROOT / "docs" / "api.md", "json")]
    [schema] = [schemas.check("order.created", each) for each in found if "schema" in each]
    [event] = [each for each in found if "event_type" in each]
    [errors] = [each for each in found if isinstance(each, list)]
    flaws = schema.flaws(event["data"], 100)
    assert [{"pointer": pointer, "detail": detail} for pointer, detail in sorted(flaws)] == errors


def test_rules_in_the_documents_are_valid_and_name_every_operator() -> None:
    rules = [json.loads(block) for block in blocks(RULES, "json")]
    rules = [msgspec.convert(rule, Rule) for rule in rules if "id" in rule and "endpoint" not in rule]
    assert rules
    compile_rules(rules)
    table = RULES.read_text().partition("## Operators")[2]
    assert {name for name in (*OPERATORS, "cel") if f"`{name}`" not in table} == set()


def test_the_rule_that_the_documents_try_matches() -> None:
    [asked] = [json.loads(block) for block in blocks(RULES, "json") if '"rule"' in block]
    tried = draft(asked["rule"], None)
    assert judged(tried, sample(asked["event"]))["matched"]


def conditions(heading: str) -> list[tuple[Condition, str]]:
    """The conditions in the tables with this heading, and what stands beside them."""
    tables = re.findall(rf"^\| condition \| {heading} \|\n(.*?)\n\n", RULES.read_text() + "\n\n", re.DOTALL | re.MULTILINE)
    rows = [row for table in tables for row in re.findall(r"^\| `(\{.*\})` \| (.*) \|$", table, re.MULTILINE)]
    return [(msgspec.json.decode(text, type=Condition), beside) for text, beside in rows]


def test_conditions_in_the_documents_have_the_outcome_that_stands_beside_them() -> None:
    [sample] = [block for block in blocks(RULES, "json") if '"event_id"' in block]
    event = msgspec.json.decode(json.dumps({**json.loads(sample), "accepted_at": 1}), type=Event)
    told = [(compile_condition(condition).why(View(event))["because"], outcome) for condition, outcome in conditions("outcome")]
    assert len(told) > 15
    assert [because for because, _ in told] == [outcome for _, outcome in told]


def test_conditions_that_the_documents_call_refused_are_refused() -> None:
    found = conditions("refused")
    assert len(found) > 3
    for condition, detail in found:
        with pytest.raises(ConditionError, match=re.escape(detail)):
            compile_condition(condition)


def test_target_files_in_the_documents_are_valid() -> None:
    found = {f"{path.name}.yaml": block.encode() for path in DOCUMENTS for block in blocks(path, "yaml") if "endpoint:" in block}
    assert found
    checked = target_files.check(target_files.Snapshot(found, {}), {"ORDERS_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})
    assert checked.problems == []


def test_links_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_make_targets_in_the_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for path in DOCUMENTS:
        for target in re.findall(r"`make ([a-z0-9-]+)", path.read_text()):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name} names make {target}"


def test_the_transforms_in_the_documents_do_what_they_say() -> None:
    rules = [_rule(block) for block in blocks(ROOT / "docs" / "rules.md", "json")]
    order = {"amount": 5, "user": "Ann", "card": "4", "items": [{"sku": "a", "n": 2}, {"sku": "b", "n": 3}]}
    event = Event(
        event_id="e1",
        event_type="order.created",
        source="shop",
        timestamp=1,
        accepted_at=1,
        data=msgspec.Raw(msgspec.json.encode(order)),
        metadata={"trace": "x"},
    )
    made = {rule.id: compile_transform(rule.transform)(View(event)) for rule in rules if rule.transform is not None}
    data = {name: msgspec.json.decode(output.event.data) for name, output in made.items()}
    assert data["gold"] == {"amount": 5, "items": order["items"], "customer": "Ann", "total": 10}
    assert (made["gold"].event.event_type, made["gold"].event.metadata) == ("order.gold", {"tier": "gold"})
    assert (made["text"].body, made["text"].content_type) == ("Order e1: 2 x a 3 x b", "text/plain; charset=utf-8")
    assert data["json"] == {"text": "New order of 5", "amount": 5}
    assert data["restructure"] == {"skus": ["a", "b"], "count": 5}


def _rule(block: str) -> Rule:
    try:
        return msgspec.json.decode(block, type=Rule)
    except msgspec.ValidationError:  # a condition alone
        return Rule(id="")
