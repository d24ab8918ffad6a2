"""Rules, dashboards and autoscalers ask for metrics that the running services have, alerts fire when they should, and each leads
to its section of the runbook."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
import yaml

from tests.deploy import monitoring
from tests.deploy.monitoring import DASHBOARDS, FROM_PROMETHEUS, GRAFANA, RULES, RUNBOOK
from tests.e2e.system import SERVICES, running

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool (Debian: apt install prometheus) is not installed"
)


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("up", {"up"}),
        (
            'sum by (a, le) (rate(mcp_x_bucket{b=~"c{2}|mcp_y", d!=""}[5m])) / tas:x:rate1m offset 15m',
            {"mcp_x_bucket", "tas:x:rate1m"},
        ),
        ('absent(up{service="a"}) and on () (max(mcp_x) or vector(0)) > bool 1e3', {"up", "mcp_x"}),
        ('label_replace(max by (a) (mcp_x), "b", "$1", "a", "(.+)") unless on (b) mcp_y == 0', {"mcp_x", "mcp_y"}),
        ("mcp_events_per_second", {"mcp_events_per_second"}),
    ],
)
def test_the_names_in_an_expression(expression: str, found: set[str]) -> None:
    assert monitoring.names(expression) == found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each service shows at /metrics."""
    async with running(tmp_path_factory.mktemp("system")) as system:
        return {name: (await system.call("GET", system.ops(name) + "/metrics")).body for name in SERVICES}


def test_every_metric_that_is_asked_for_is_served(pages: dict[str, str]) -> None:
    known = set.union(*map(monitoring.served, pages.values())) | FROM_PROMETHEUS | monitoring.recorded()
    asked = [*monitoring.of_rules(), *monitoring.of_dashboards(), *monitoring.of_autoscalers()]
    scaled = {name for each in monitoring.of_autoscalers() for name in monitoring.names(each.text)}
    assert scaled >= {"mcp_events_per_second", "mcp_consumer_pending", "mcp_deliverable_pending"}
    unknown = {each.where: missing for each in asked if (missing := monitoring.names(each.text) - known)}
    assert unknown == {}


def test_every_metric_that_is_served_is_listed(pages: dict[str, str]) -> None:
    shown: dict[monitoring.Metric, set[str]] = {}
    for service, page in pages.items():
        for metric in monitoring.metrics(page):
            shown.setdefault(metric, set()).add(service)
    listed = monitoring.listed()
    assert shown == {metric: set(SERVICES) if of == "Of every service" else {of} for metric, (of, _) in listed.items()}
    labels = {metric.name: names for metric, (_, names) in listed.items()}
    for page in pages.values():
        for name, names in monitoring.labelled(page):
            assert labels[name] == names, name


def test_every_alert_is_explained() -> None:
    alerts = {alert["alert"]: alert for alert in monitoring.alerts()}
    for name, alert in alerts.items():
        assert alert["labels"]["severity"] in ("warning", "critical"), name
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}, name
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    sections = re.search(r"^# Alerts\n(.*?)^# ", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    assert sections
    assert re.findall(r"^## (.+)$", sections[1], re.MULTILINE) == list(alerts)


def test_links_of_the_runbook_lead_to_headings() -> None:
    links = re.findall(r"\]\(([^)#]*)#([^)]+)\)", RUNBOOK.read_text())
    assert len(links) > 20
    for file, anchor in links:
        assert anchor in monitoring.slugs(RUNBOOK.parent / file if file else RUNBOOK), f"{file}#{anchor}"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_can_be_provisioned(path: Path) -> None:
    board = json.loads(path.read_text())
    assert (board["id"], board["uid"], board["schemaVersion"]) == (None, f"tas-{path.stem}", 41)
    assert [each["query"] for each in board["templating"]["list"] if each["type"] == "datasource"] == ["prometheus"]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    for panel in monitoring.panels(board):
        for each in (panel, *panel["targets"]):
            assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    for link in board["links"]:
        assert (GRAFANA / "dashboards" / (link["url"].removeprefix("/d/tas-") + ".json")).exists()


def test_points_on_latencies_lead_to_traces() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "datasources.yaml").read_text())["datasources"]
    assert {each["type"]: each["uid"] for each in sources} == {"prometheus": "prometheus", "jaeger": "jaeger"}
    assert sources[0]["jsonData"]["exemplarTraceIdDestinations"] == [{"name": "trace_id", "datasourceUid": "jaeger"}]
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    shown = {
        target["expr"]
        for board in boards
        for panel in monitoring.panels(board)
        for target in panel["targets"]
        if target.get("exemplar")
    }
    assert set.union(*map(monitoring.names, shown)) == {"mcp_ingest_seconds_bucket", "mcp_forwarding_latency_seconds_bucket"}
    folder = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "dashboards.yaml").read_text())
    assert [each["options"]["path"] for each in folder["providers"]] == ["/var/lib/grafana/dashboards"]


def promtool(*arguments: str, given: str = "") -> None:
    done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_reads_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


@needs_promtool
def test_prometheus_finds_nothing_to_say_against_our_metrics(pages: dict[str, str]) -> None:
    for page in pages.values():
        promtool("check", "metrics", given=page)


@needs_promtool
def test_prometheus_reads_its_configuration() -> None:
    promtool("check", "config", str(RULES.with_name("prometheus.yml")))


@needs_promtool
def test_prometheus_reads_what_the_dashboards_ask(tmp_path: Path) -> None:
    asked = [{"record": f"asked:{number}", "expr": each.text} for number, each in enumerate(monitoring.of_dashboards())]
    assert len(asked) > 50
    path = tmp_path / "asked.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": asked}]}))
    promtool("check", "rules", str(path))


class Night(NamedTuple):
    """What makes an alert fire within ``minutes``: series in promtool's notation (one value each minute), which are added to
    those of a gateway that is well, or stand instead of them."""

    alert: str
    series: dict[str, str]
    minutes: int = 10


WELL = {
    **{f'up{{service="{service}", instance="{service}:9090"}}': "1x60" for service in SERVICES},
    "mcp_readings_timestamp_seconds": "0+60x60",
    'mcp_broker_connected{service="ingest"}': "1x60",
    'mcp_check_up{service="process", check="outcomes"}': "1x60",
    'mcp_events_total{protocol="http", outcome="accepted"}': "0+6000x60",
    'mcp_events_total{protocol="http", outcome="unavailable"}': "0x60",
    "mcp_rules_evaluated_total": "0+6000x60",
    'mcp_consumer_pending{stream="EVENTS", consumer="process"}': "100x60",
    'mcp_stream_fill_ratio{stream="EVENTS"}': "0.6+0.05x4 0.6+0.05x4 0.6+0.05x4 0.6+0.05x4",
    'mcp_stream_fill_ratio{stream="OUTCOMES"}': "1x60",
    'mcp_circuit_state{target="a"}': "0x60",
    'mcp_deliveries_total{target="a", outcome="delivered"}': "0+6000x60",
    'mcp_deliveries_total{target="a", outcome="failed"}': "0+60x60",
    'mcp_oldest_pending_seconds{target="a"}': "5x60",
    'mcp_dead_letters_held{target="a"}': "7x60",
    'mcp_routed_total{result="dropped"}': "3x60",
    'mcp_event_loop_lag_seconds_bucket{service="ingest", le="0.005"}': "0+240x60",
    'mcp_event_loop_lag_seconds_bucket{service="ingest", le="1.0"}': "0+240x60",
    'mcp_event_loop_lag_seconds_bucket{service="ingest", le="+Inf"}': "0+240x60",
    'mcp_document_valid{service="process", document="targets/a"}': "1x60",
    'mcp_certificate_expiry_seconds{service="control"}': "0x60",  # no TLS
    'mcp_certificate_valid{service="control"}': "0x60",
    'mcp_certificate_expiry_seconds{service="ingest"}': f"{30 * 86400}x60",
    'mcp_certificate_valid{service="ingest"}': "1x60",
    'mcp_auth_failures_total{reason="unknown"}': "0+6x60",
    'mcp_audit_failures_total{service="control"}': "0x60",
}
"""All in order, as series over an hour."""

NIGHTS = [
    Night("TasServiceDown", {'up{service="ingest", instance="ingest:9090"}': "0x60"}, 3),
    Night("TasServiceDown", {'up{service="forward", instance="forward:9090"}': ""}, 3),
    Night("TasServiceDown", {'up{service="process", instance="process:9090"}': ""}, 3),
    Night("TasBrokerDisconnected", {'mcp_broker_connected{service="ingest"}': "0x60"}, 2),
    Night("TasNotReady", {'mcp_check_up{service="process", check="room"}': "0x60"}),
    Night("TasReadingsStale", {"mcp_readings_timestamp_seconds": "60x60"}),
    Night("TasReadingsStale", {"mcp_readings_timestamp_seconds": ""}),
    Night("TasEventLoopLag", {'mcp_event_loop_lag_seconds_bucket{service="ingest", le="0.005"}': "0x60"}, 20),
    Night("TasDocumentInvalid", {'mcp_document_valid{service="process", document="targets/a"}': "0x60"}),
    Night("TasIngestRefusing", {'mcp_events_total{protocol="http", outcome="unavailable"}': "0+120x60"}, 5),
    Night("TasStreamFilling", {'mcp_stream_fill_ratio{stream="EVENTS"}': "0.9x60"}, 20),
    Night("TasStreamFull", {'mcp_stream_fill_ratio{stream="DEAD"}': "0.96x60"}, 2),
    Night("TasProcessLagging", {'mcp_consumer_pending{stream="EVENTS", consumer="process"}': "0+3000x60"}, 30),
    Night("TasProcessStuck", {"mcp_rules_evaluated_total": "6000x60"}, 20),
    Night("TasProcessStuck", {"mcp_rules_evaluated_total": ""}, 20),
    Night("TasOutcomesNotStored", {'mcp_check_up{service="forward", check="forward.outcomes"}': "0x60"}, 3),
    Night("TasTargetBreakerOpen", {'mcp_circuit_state{target="a"}': "2 2 1 2 2 2 2 1 2 2 2 2 1 2 2 2 2 1 2 2 2 2"}, 18),
    Night("TasTargetFailing", {'mcp_deliveries_total{target="a", outcome="failed"}': "0+2000x60"}, 20),
    Night("TasTargetBehind", {'mcp_oldest_pending_seconds{target="a"}': "1000x60"}),
    Night("TasDeadLetters", {'mcp_dead_letters_held{target="a"}': "7x15 8x60"}, 18),
    Night("TasDeliveriesDropped", {'mcp_routed_total{result="dropped"}': "3 4x60"}, 5),
    Night("TasCertificateExpiring", {'mcp_certificate_expiry_seconds{service="ingest"}': "600000x60"}, 2),
    Night("TasCertificateRefused", {'mcp_certificate_valid{service="ingest"}': "0x60"}),
    Night("TasAuthFailures", {'mcp_auth_failures_total{reason="unknown"}': "0+120x60"}, 15),
    Night("TasAuditFailures", {'mcp_audit_failures_total{service="control"}': "0 1x60"}, 5),
]


def test_every_alert_has_its_night() -> None:
    assert {night.alert for night in NIGHTS} == {alert["alert"] for alert in monitoring.alerts()}


@needs_promtool
def test_each_alert_fires_alone_in_its_night_and_none_when_all_is_well(tmp_path: Path) -> None:
    nights = [*NIGHTS, *(Night("", {}, minutes) for minutes in (5, 20, 59))]
    path = tmp_path / "nights.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": list(map(_case, nights))}))
    promtool("test", "rules", str(path))


def _case(night: Night) -> dict[str, Any]:
    series = {name: values for name, values in {**WELL, **night.series}.items() if values}
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    expected = [{"labels": f'{{alertname="{night.alert}"}}', "value": 1}] if night.alert else []
    return {
        "name": night.alert or "all is well",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": f"{night.minutes}m", "exp_samples": expected}],
    }
