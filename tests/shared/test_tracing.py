"""Spans against a collector, and who decides what is traced."""

import subprocess
import sys
from contextlib import AbstractAsyncContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp.errors import Misconfigured
from tas_mcp.tracing import Tracer, open_tracer, sampling, trace_id
from tests.otlp import collecting
from tests.shared.rig import until

SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = SAMPLED[:-2] + "00"


def sampler(name: str, argument: str = "") -> dict[str, str]:
    return {"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument}


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, (1.0, True)),
        (sampler(""), (1.0, True)),
        (sampler("always_on"), (1.0, False)),
        (sampler("always_off"), (0.0, False)),
        (sampler("parentbased_always_off"), (0.0, True)),
        (sampler("traceidratio", "0.25"), (0.25, False)),
        (sampler("parentbased_traceidratio", "0.01"), (0.01, True)),
        (sampler("parentbased_traceidratio"), (1.0, True)),
    ],
)
def test_the_samplers_of_the_specification(environ: dict[str, str], found: tuple[float, bool]) -> None:
    assert sampling(environ) == found


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        (sampler("jaeger_remote"), "OTEL_TRACES_SAMPLER: 'jaeger_remote' is not known"),
        (sampler("traceidratio", "2"), "OTEL_TRACES_SAMPLER_ARG: '2' is no number from 0 to 1"),
        (sampler("traceidratio", "many"), "OTEL_TRACES_SAMPLER_ARG: 'many' is no number"),
        (sampler("traceidratio", "nan"), "OTEL_TRACES_SAMPLER_ARG: 'nan' is no number"),
    ],
)
def test_a_sampler_that_is_none(environ: dict[str, str], told: str) -> None:
    with pytest.raises(Misconfigured, match=told):
        sampling(environ)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_a_collector_nothing_is_traced(environ: dict[str, str]) -> None:
    tracer = open_tracer("ingest", environ)
    assert not tracer.on
    assert not tracer.samples(SAMPLED)


def test_without_a_collector_the_sdk_is_not_loaded() -> None:
    code = "import sys; from tas_mcp.tracing import open_tracer; open_tracer('x', {}); print('opentelemetry' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


async def test_who_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    async with collecting() as collector:
        for parents, ratio, given_by_caller, expected in [
            (True, 0.0, SAMPLED, True),
            (True, 1.0, UNSAMPLED, False),
            (True, 0.0, "", False),
            (True, 1.0, "", True),
            (True, 0.0, "no traceparent", False),
            (False, 0.0, SAMPLED, False),
            (False, 1.0, UNSAMPLED, True),
        ]:
            name = ("parentbased_" if parents else "") + "traceidratio"
            environ = collector.environ | sampler(name, str(ratio))
            async with opened(environ, monkeypatch) as tracer:
                assert tracer.samples(given_by_caller) is expected, (name, ratio, given_by_caller)
        async with opened(collector.environ | sampler("traceidratio", "0.5"), monkeypatch) as tracer:
            share = sum(tracer.samples("") for _ in range(2000))
            assert 800 < share < 1200


async def test_spans_arrive_with_their_parents_links_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    async with collecting() as collector:
        async with opened(collector.environ, monkeypatch) as tracer:
            root = tracer.begin("root", "SERVER", SAMPLED, {"a": "b"})
            child = tracer.begin("child", "PRODUCER", root.traceparent)
            child.end("it broke", {"n": 1})
            tracer.begin("linked", "CLIENT", links=[root.traceparent, "none"], start_ns=1_000_000_000).end()
            root.end()
        spans = {span.name: span for span in collector.spans}
        top, below, linked = spans["root"], spans["child"], spans["linked"]
        assert (top.service, top.trace_id, top.parent_id) == ("tas-test", SAMPLED[3:35], SAMPLED[36:52])
        assert (top.kind, top.attributes, top.error) == (2, {"a": "b"}, "")
        assert (below.trace_id, below.parent_id, below.kind) == (top.trace_id, top.span_id, 4)
        assert (below.error, below.attributes) == ("it broke", {"n": 1})
        assert linked.trace_id != top.trace_id
        assert (linked.parent_id, linked.links) == ("", [top.trace_id])
        assert root.traceparent == top.traceparent


async def test_what_is_recorded_is_sent_without_waiting_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with collecting() as collector, opened(collector.environ, monkeypatch) as tracer:
        tracer.begin("soon", "SERVER").end()
        await until(lambda: collector.named("soon"))


def test_a_collector_that_never_answers_does_not_hold_up_the_end() -> None:
    code = """
import os, socket, uvloop
from tas_mcp.tracing import open_tracer

async def main():
    async with open_tracer("test", os.environ).running() as tracer:
        for _ in range(3000):
            tracer.begin("a", "SERVER").end()

with socket.socket() as silent:
    silent.bind(("127.0.0.1", 0))
    silent.listen(10)
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
    uvloop.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "the last spans were not sent" in done.stdout + done.stderr


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True))
def test_anything_may_stand_in_a_traceparent(text: str) -> None:
    found = trace_id(text)
    assert found == "" or (len(found) == 32 and found == text[3:35] and set(found) != {"0"})
    assert not Tracer().samples(text)


def opened(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> AbstractAsyncContextManager[Tracer]:
    for name, value in environ.items():  # the SDK reads some itself
        monkeypatch.setenv(name, value)
    return open_tracer("test", environ).running()
