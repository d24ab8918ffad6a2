"""One event is one trace over all tiers, as a collector of OTLP gets it from separate processes; where there is a real Jaeger, as
its API tells it."""

import json
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e.conftest import World, arrived, event
from tests.e2e.receiver import Reply, first, receiving
from tests.e2e.system import EVENTS, Answer, running, until
from tests.otlp import Collector, Seen, collecting

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = SAMPLED[:-2] + "00"
SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5
JAEGER = os.environ.get("TAS_TEST_JAEGER", "")
"""The host of a Jaeger with its usual ports: OTLP over HTTP on 4318, its API on 16686."""


class Traced:
    """A gateway whose services send their spans to a collector."""

    def __init__(self, world: World, collector: Collector) -> None:
        self.world = world
        self.collector = collector

    async def send(self, name: str, traceparent: str = "", path: str = EVENTS, **changes: Any) -> tuple[str, Answer]:
        """The id of an accepted event, and the answer."""
        given = event(name, **changes)
        headers = {"traceparent": traceparent} if traceparent else {}
        answer = await self.world.system.call("POST", self.world.system.ingest + path, json=given, headers=headers)
        assert answer.status == 200, answer.body
        return str(given["event_id"]), answer

    async def spans(self, trace_id: str, count: int) -> dict[str, Seen]:
        """The spans of a trace, by name, once they are all there."""

        def found() -> list[Seen]:
            return [span for span in self.collector.spans if span.trace_id == trace_id]

        async def all_there() -> bool:
            return len(found()) >= count

        await until(all_there, what=f"{count} spans of {trace_id}")
        return {span.name: span for span in found()}


async def logged(traced: Traced, service: str, **values: Any) -> list[dict[str, Any]]:
    """The lines of a service's log that have these values."""
    lines = (traced.world.system.folder / f"{service}.log").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [line for line in found if all(line.get(name) == value for name, value in values.items())]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Traced]:
    folder = tmp_path_factory.mktemp("traced")
    async with collecting() as collector, receiving() as receiver:
        environ = {**collector.environ, "OTEL_TRACES_SAMPLER": "parentbased_always_on", "TAS_TRACE_ERRORS": "true"}
        async with running(folder, **environ) as system:
            yield Traced(World(system, receiver), collector)
            assert system.violations == []


async def test_one_event_is_one_tree_over_all_tiers(traced: Traced) -> None:
    world = traced.world
    for name in ("tree", "second"):
        await world.system.put({**world.target(name), "rules": world.target("tree")["rules"]})
    event_id, answer = await traced.send("tree")
    await arrived(world, "tree", event_id)
    await arrived(world, "second", event_id)
    told = answer.headers["traceparent"]
    trace_id = told[3:35]
    await traced.spans(trace_id, 7)
    spans = [span for span in traced.collector.spans if span.trace_id == trace_id]
    parents = {span.span_id: span for span in spans}
    shape = sorted((span.service, span.name, span.kind, parents[span.parent_id].name if span.parent_id else "") for span in spans)
    assert shape == [
        ("tas-forward", "deliver webhook", CLIENT, "send tas.deliveries"),
        ("tas-forward", "deliver webhook", CLIENT, "send tas.deliveries"),
        ("tas-ingest", "POST /api/v1/events", SERVER, ""),
        ("tas-ingest", "send tas.events", PRODUCER, "POST /api/v1/events"),
        ("tas-process", "process tas.events", CONSUMER, "send tas.events"),
        ("tas-process", "send tas.deliveries", PRODUCER, "process tas.events"),
        ("tas-process", "send tas.deliveries", PRODUCER, "process tas.events"),
    ]
    root = next(span for span in spans if not span.parent_id)
    assert told == root.traceparent, "the answer names the span of the request"
    process = next(span for span in spans if span.kind == CONSUMER)
    assert sorted(process.attributes["tas.rules.matched"]) == ["second/own", "tree/own"]
    assert process.attributes["messaging.message.id"] == event_id
    sent = {received.headers["traceparent"] for name in ("tree", "second") for received in world.receiver.of(name)}
    assert sent == {span.traceparent for span in spans if span.kind == CLIENT}, "the target is told of the attempt"


async def test_the_decision_of_who_sends_is_honoured(traced: Traced) -> None:
    world = traced.world
    await world.system.put(world.target("parents"))
    event_id, answer = await traced.send("parents", SAMPLED)
    await arrived(world, "parents", event_id)
    spans = await traced.spans(SAMPLED[3:35], 5)
    assert spans["POST /api/v1/events"].parent_id == SAMPLED[36:52]
    assert answer.headers["traceparent"][:35] == SAMPLED[:35]

    before = len(traced.collector.spans)
    event_id, answer = await traced.send("parents", UNSAMPLED)
    await arrived(world, "parents", event_id)
    assert "traceparent" not in answer.headers
    assert "traceparent" not in world.receiver.of("parents")[-1].headers
    event_id, answer = await traced.send("parents")  # sampled: whatever had come of the other would be here with it
    await arrived(world, "parents", event_id)
    await traced.spans(answer.headers["traceparent"][3:35], 5)
    assert len(traced.collector.spans) == before + 5


async def test_a_retry_begins_a_trace_with_a_link_to_its_event(traced: Traced) -> None:
    world = traced.world
    await world.system.put({**world.target("again"), "config": {"retry": {"schedule": ["100ms"]}}})
    world.receiver.script("again", first(1, Reply(500)))
    event_id, answer = await traced.send("again")
    await arrived(world, "again", event_id)
    trace_id = answer.headers["traceparent"][3:35]
    attempt = (await traced.spans(trace_id, 5))["deliver webhook"]
    [line] = await until(lambda: logged(traced, "forward", event_id=event_id), what="the line of the failure")
    assert (line["level"], line["event"], line["target"], line["attempt"], line["status"], line["trace_id"]) == (
        "warning", "delivery failed", "again", 1, 500, trace_id,
    )  # fmt: skip
    assert "500" in attempt.error
    assert (attempt.attributes["tas.attempt"], attempt.attributes["http.response.status_code"]) == (1, 500)

    def retries() -> list[Seen]:
        return [span for span in traced.collector.spans if trace_id in span.links]

    async def retried() -> bool:
        return bool(retries())

    await until(retried)
    [retry] = retries()
    assert (retry.name, retry.parent_id, retry.error) == ("deliver webhook", "", "")
    assert (retry.attributes["tas.attempt"], retry.attributes["messaging.message.id"]) == (2, event_id)


async def test_a_failure_is_traced_even_where_its_event_is_not(traced: Traced) -> None:
    world = traced.world
    await world.system.put({**world.target("silent"), "config": {"retry": {"schedule": ["1h"]}}})
    world.receiver.script("silent", first(1, Reply(503)))
    event_id, _ = await traced.send("silent", UNSAMPLED)

    def of_event() -> list[Seen]:
        return [span for span in traced.collector.spans if span.attributes.get("messaging.message.id") == event_id]

    async def told() -> bool:
        return bool(of_event())

    await until(told)
    [span] = of_event()
    await until(lambda: logged(traced, "forward", event_id=event_id, trace_id=span.trace_id), what="the line of the failure")
    assert (span.service, span.name, span.parent_id, span.attributes["http.response.status_code"]) == (
        "tas-forward", "deliver webhook", "", 503,
    )  # fmt: skip


async def test_each_event_of_a_batch_has_its_part_in_the_trace_of_who_sends(traced: Traced) -> None:
    world = traced.world
    parent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    body = [event("batched") for _ in range(3)]
    url = world.system.ingest + EVENTS + "/batch"
    answer = await world.system.call("POST", url, json=body, headers={"traceparent": parent})
    assert answer.body["accepted"] == 3
    await traced.spans("ab" * 16, 9)
    roots = [span for span in traced.collector.spans if span.trace_id == "ab" * 16 and span.parent_id == "cd" * 8]
    assert [span.name for span in roots] == ["POST /api/v1/events"] * 3


@pytest.mark.parametrize(
    ("service", "metric"),
    [
        ("ingest", "mcp_ingest_seconds"),
        ("forward", "mcp_forwarding_latency_seconds"),
        ("forward", "mcp_end_to_end_seconds"),
    ],
)
async def test_the_latencies_name_a_trace_as_an_example(traced: Traced, service: str, metric: str) -> None:
    world = traced.world
    await world.system.put(world.target("example"))
    event_id, answer = await traced.send("example")
    await arrived(world, "example", event_id)
    trace_id = answer.headers["traceparent"][3:35]

    async def shown() -> bool:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        page = (await world.system.call("GET", world.system.ops(service) + "/metrics", headers=accept)).body
        return any(line.startswith(f"{metric}_bucket") and f'# {{trace_id="{trace_id}"}}' in line for line in page.splitlines())

    await until(shown, what=f"{trace_id} at {metric}")


async def test_what_goes_well_is_not_logged(traced: Traced) -> None:
    world = traced.world
    await world.system.put(world.target("quiet"))
    before = {name: len(await logged(traced, name)) for name in ("ingest", "process", "forward")}
    for _ in range(20):
        event_id, _ = await traced.send("quiet")
        await arrived(world, "quiet", event_id)
    assert {name: len(await logged(traced, name)) for name in before} == before


@pytest.mark.real
@pytest.mark.skipif(not JAEGER, reason="needs a Jaeger: TAS_TEST_JAEGER=<host> with OTLP on 4318 and its API on 16686")
async def test_jaeger_has_the_whole_tree(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("jaeger")
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{JAEGER}:4318", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    async with receiving() as receiver, running(folder, **environ) as system, aiohttp.ClientSession() as session:
        world = World(system, receiver)
        await system.put(world.target("jaeger"))
        event_id, answer = await Traced(world, Collector("")).send("jaeger")
        await arrived(world, "jaeger", event_id)
        trace_id = answer.headers["traceparent"][3:35]
        found: dict[str, str] = {}
        parents: dict[str, str] = {}

        async def whole() -> bool:
            async with session.get(f"http://{JAEGER}:16686/api/v3/traces/{trace_id}") as response:
                if response.status != 200:
                    return False
                result = (await response.json(content_type=None))["result"]
            for resource in result["resourceSpans"]:
                names = {each["key"]: each["value"] for each in resource["resource"]["attributes"]}
                for scope in resource["scopeSpans"]:
                    for span in scope["spans"]:
                        found[span["spanId"]] = f"{names['service.name']['stringValue']}: {span['name']}"
                        parents[span["spanId"]] = span.get("parentSpanId", "")
            return len(found) == 5

        await until(whole)
        shown = {found[span]: found.get(parent, "") for span, parent in parents.items()}
        assert shown == {
            "tas-ingest: POST /api/v1/events": "",
            "tas-ingest: send tas.events": "tas-ingest: POST /api/v1/events",
            "tas-process: process tas.events": "tas-ingest: send tas.events",
            "tas-process: send tas.deliveries": "tas-process: process tas.events",
            "tas-forward: deliver webhook": "tas-process: send tas.deliveries",
        }
