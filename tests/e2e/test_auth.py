"""Who may come in, at the gateway as a whole."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests

from services.control.access import OPEN
from services.dev.main import SERVICES
from tests.e2e import gateway
from tests.e2e.system import BIN, ROOT, START_SECONDS, System
from tests.e2e.system import until as wait_until
from tests.e2e.test_dev import Dev, until
from tests.e2e.test_docs import blocks
from tests.nats_server import NatsServer
from tests.services.control.rig import ADMIN, KEYS, TARGETS

EVENTS = "/api/v1/events"
OPS = {("GET", path) for path in ("/health", "/livez", "/ready", "/readyz", "/metrics")}
PLANTED = "tas_0123456789ab_PLANTED-SECRET-PLANTED-SECRET-PLANTED-SECRE"
"""Of the form of a key."""


def test_every_route_of_every_service_asks_for_a_key(nats: NatsServer) -> None:
    """All but health and the description of the API: also those of protocols that are yet to come."""
    with gateway.running(nats.url, list(SERVICES), ADMIN) as found:
        asked = {(route.method, route.path) for route in found.routes} - OPEN - OPS
        assert len(asked) > 40
        for method, path in sorted(asked):
            url = found.base + re.sub(r"{\w+(:[^{}]*)?}", "1", path)
            for headers in ({}, {"Authorization": f"Bearer {PLANTED}"}):
                answer = requests.request(method, url, headers=headers, timeout=60)
                assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED"), (method, path)
                assert "PLANTED" not in answer.text
        for _, path in OPEN | OPS:
            assert requests.get(found.base + path, timeout=60).status_code == 200


def section(heading: str) -> str:
    text = (ROOT / "docs" / "security.md").read_text()
    found = re.search(rf"^## {heading}\n(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("openssl")), reason="the documents use curl and openssl")
def test_the_commands_of_the_documents_make_a_key_and_send_an_event_with_it(tmp_path: Path) -> None:
    (tmp_path / "section.md").write_text(section("Who may come in"))
    server, client = blocks(tmp_path / "section.md", "sh")
    dev = Dev(tmp_path, "--ephemeral", environ={"TAS_ADMIN_KEY_FILE": str(tmp_path / "admin.key")})
    environ = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TAS_URL": dev.base}

    def run(script: str) -> str:
        shell = ["bash", "-euo", "pipefail", "-c", script.replace(":8080", f":{dev.ports.http}").replace("curl ", "curl -sSf ")]
        done = subprocess.run(shell, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    run(server.replace("tas dev", "true"))
    dev.running()
    try:
        said = run(client)
        assert '"status":"accepted"' in said
        assert re.search(r"^[0-9a-f]{12} +shop +events:write +order\.\* +all ", said, re.MULTILINE)
        assert requests.post(dev.base + EVENTS, json={"event_type": "a", "source": "s"}, timeout=60).status_code == 401
    finally:
        dev.close()


def test_no_secret_is_in_a_log_an_answer_or_what_is_stored(tmp_path: Path) -> None:
    """Each is sent to every place where it could be taken up, right and wrong."""
    admin = "PLANTED-ADMIN-" + "x" * 32
    (tmp_path / "admin.key").write_text(admin)
    data = tmp_path / "data"
    environ = {"TAS_ADMIN_KEY_FILE": str(tmp_path / "admin.key"), "TAS_LOG_LEVEL": "debug"}
    dev = Dev(tmp_path, "--data", str(data), environ=environ).running()
    seen: list[str] = []

    def call(method: str, path: str, key: str, **options: object) -> requests.Response:
        answer = requests.request(method, dev.base + path, headers={"Authorization": f"Bearer {key}"}, timeout=60, **options)  # type: ignore[arg-type]
        seen.append(answer.text)
        return answer

    try:
        made = call("POST", KEYS, admin, json={"name": "shop", "scopes": ["events:write", "targets:read"]}).json()
        seen.clear()  # the one answer that shows it
        secret = made["key"].split("_", 2)[2]
        rotated = call("POST", f"{KEYS}/{made['id']}/rotate", admin).json()["key"].split("_", 2)[2]
        seen.clear()
        for key in (made["key"], PLANTED, PLANTED + "x", admin + "x", admin):
            call("POST", EVENTS, key, json={"event_type": "a.b", "source": "s"})
            call("POST", EVENTS, key, data=b"no JSON")
            call("GET", TARGETS, key)
            call("GET", KEYS, key)
            call("GET", "/api/v1/audit/log", key)
            call("GET", "/nothing", key)
            places = ({"X-API-Key": key}, {"Authorization": f"Basic {key}"}, {"X-API-Key": key, "Authorization": key})
            seen += [requests.get(dev.base + KEYS, headers=headers, timeout=60).text for headers in places]
        call("DELETE", f"{KEYS}/{made['id']}", admin)
        records = call("GET", "/api/v1/audit/log", admin).json()["items"]
        assert {"created", "rotated", "revoked"} <= {each["action"] for each in records}
        seen.append(requests.get(dev.base + "/metrics", timeout=60).text)
        seen.append(requests.get(dev.base + "/ready", timeout=60).text)
        until(lambda: dev.end() == 0, "the end")
    finally:
        dev.close()
    files = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert any(made["id"].encode() in content for content in files.values()), "what is stored was looked at"
    for planted in (secret, rotated, "PLANTED"):
        assert not any(planted in text for text in seen)
        assert planted not in dev.out + dev.err
        assert [str(path) for path, content in files.items() if planted.encode() in content] == []
    assert json.loads(seen[0])


async def test_processes_apart_follow_the_keys(tmp_path: Path) -> None:
    """Of ingest there are two workers."""
    settings = {"TAS_AUTH": "auto", "TAS_ADMIN_KEY": ADMIN}
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), timeout=timeout) as session:
        system = System(tmp_path, session, settings)
        system.programs["ingest"] = system.service("ingest", system.http_port, "--workers", "2")
        try:
            for name in ("nats", "control", "ingest"):
                system.programs[name].start()
            await system.ready("control", "ingest", seconds=START_SECONDS)

            async def statuses(key: str) -> set[int]:
                """Of many connections, so that both workers are asked."""
                given = {"event_type": "a.b", "source": "s"}
                answers = (system.call("POST", system.ingest + EVENTS, json=given, headers={"X-API-Key": key}) for _ in range(20))
                return {answer.status for answer in await asyncio.gather(*answers)}

            async def change(method: str, path: str, **options: Any) -> Any:
                answer = await system.call(method, path, headers={"X-API-Key": ADMIN}, **options)
                assert answer.status in (200, 201), answer.body
                return answer.body

            for _ in range(5):
                made = await change("POST", KEYS, json={"name": "shop", "scopes": ["events:write"]})
                await wait_until(lambda key=made["key"]: only(statuses(key), 200))  # type: ignore[misc]
                await change("DELETE", f"{KEYS}/{made['id']}")
                await wait_until(lambda key=made["key"]: only(statuses(key), 401))  # type: ignore[misc]
                assert await statuses(made["key"]) == {401}
            assert await statuses("wrong") == {401}
            assert (await system.call("GET", TARGETS)).status == 401
        finally:
            system.close()


async def only(statuses: Coroutine[Any, Any, set[int]], status: int) -> bool:
    return await statuses == {status}
