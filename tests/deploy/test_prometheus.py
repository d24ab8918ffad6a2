"""A real Prometheus reads the services: every rule can be evaluated, and every panel of the dashboards has something to show, but
those that tell of trouble which there is not."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy import monitoring
from tests.deploy.monitoring import RULES
from tests.e2e.receiver import receiving
from tests.e2e.system import SERVICES, Program, System, running, until
from tests.otlp import collecting
from tests.ports import free_port

pytestmark = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="prometheus (Debian: apt install prometheus) is not installed"
)

QUIET = {
    "overview.json: Alerts",
    "targets.json: Alerts",
    "overview.json: Handed out again by the broker",
    "overview.json: Refused and lost from view",
    "overview.json: Checks of readiness that fail",
    "overview.json: Certificates: time left",
    "overview.json: Documents that cannot be used",
}
"""What shows nothing while all is well, and there is no TLS."""


class Prometheus:
    """Its API."""

    def __init__(self, system: System, url: str) -> None:
        self._system = system
        self._url = url

    async def get(self, path: str, **query: str) -> Any:
        """What an answer holds."""
        answer = await self._system.call("GET", f"{self._url}/api/v1/{path}", params=query)
        assert answer.status == 200, (query, answer.body)
        return answer.body["data"]

    async def shows(self, expression: str) -> bool:
        return bool((await self.get("query", query=expression))["result"])


@asynccontextmanager
async def watching(system: System, folder: Path) -> AsyncIterator[Prometheus]:
    """Prometheus, with our rules, on the ops ports of a gateway, each second."""
    port = free_port()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "tas",
                "static_configs": [
                    {"targets": [system.ops(name).removeprefix("http://")], "labels": {"service": name}} for name in SERVICES
                ],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    flags = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "prometheus",
        "web.listen-address": f"127.0.0.1:{port}",
        "enable-feature": "exemplar-storage",
    }
    command = [str(shutil.which("prometheus")), *(f"--{name}={value}" for name, value in flags.items())]
    program = Program("prometheus", command, {}, folder / "prometheus.log")
    program.start()
    url = f"http://127.0.0.1:{port}"
    try:

        async def ready() -> bool:
            answer = await system.try_call("GET", url + "/-/ready")
            return answer is not None and answer.status == 200

        await until(ready, what="Prometheus")
        yield Prometheus(system, url)
    finally:
        program.kill()


async def test_every_rule_and_every_panel_has_something_to_show(tmp_path: Path) -> None:
    made = [each for each in monitoring.of_rules() if each.where in monitoring.recorded()]
    left = [each for each in (*made, *monitoring.of_dashboards()) if each.where not in QUIET]
    assert len(left) > 60
    async with collecting() as collector, receiving() as receiver:
        environ = {**collector.environ, "OTEL_TRACES_SAMPLER": "parentbased_always_on"}
        async with running(tmp_path, **environ) as system, watching(system, tmp_path) as prometheus:
            await system.put({"id": "watched", "type": "webhook", "endpoint": receiver.url("watched")})

            async def shown() -> bool:
                await system.send({"event_type": "watched", "source": "tests", "data": {"amount": 5}})
                left[:] = [each for each in left if not await prometheus.shows(each.text)]
                return not left

            try:
                await until(shown, 60)
            except AssertionError:
                raise AssertionError(f"nothing is shown by {left}") from None
            rules: list[Any] = []

            async def evaluated() -> bool:
                rules[:] = [rule for group in (await prometheus.get("rules"))["groups"] for rule in group["rules"]]
                return all(rule["health"] != "unknown" for rule in rules)

            await until(evaluated, what="an evaluation of every rule")
            assert len(rules) == len(monitoring.rules())
            assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}
            assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []
            for metric in ("mcp_ingest_seconds_bucket", "mcp_forwarding_latency_seconds_bucket"):
                found = await prometheus.get("query_exemplars", query=metric, start="0", end="99999999999")
                traces = {example["labels"]["trace_id"] for series in found for example in series["exemplars"]}
                assert traces & {span.trace_id for span in collector.spans}, metric
