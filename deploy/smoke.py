"""One event through the running containers: from the gateway to the receiver, its trace in Jaeger, its count in Prometheus.

python3 deploy/smoke.py        after `make up`; ends with 1, and says what is missing, where something is
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOST = "http://127.0.0.1:"
GATEWAY = HOST + os.environ.get("GATEWAY_PORT", "8080")
JAEGER = HOST + os.environ.get("JAEGER_PORT", "16686")
PROMETHEUS = HOST + os.environ.get("PROMETHEUS_PORT", "9091")
KEY = (Path(__file__).resolve().parent.parent / ".secrets" / "admin_key").read_text().strip()
SECONDS = 60.0
TIERS = {"tas-ingest", "tas-process", "tas-forward"}


def ask(url: str, body: Any = None, method: str = "GET") -> tuple[Any, dict[str, str]]:
    """The decoded answer and its headers."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if url.startswith(GATEWAY):
        headers["Authorization"] = f"Bearer {KEY}"
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or b"null"), dict(answer.headers.items())


def until(what: str, look: Callable[[], Any]) -> Any:
    """What ``look`` finds, once it finds something."""
    end = time.monotonic() + SECONDS
    trouble = ""
    while time.monotonic() < end:
        try:
            if found := look():
                print(f"  ok: {what}")
                return found
        except (OSError, ValueError) as error:
            trouble = f" ({error})"
        time.sleep(0.5)
    sys.exit(f"  missing after {SECONDS:g} s: {what}{trouble}")


def save_target() -> bool:
    target = {"type": "webhook", "endpoint": "http://receiver:8089/", "name": "the demo receiver"}
    ask(f"{GATEWAY}/api/v1/forwarding/targets/receiver", target, "PUT")
    return True


def send(event_id: str) -> str:
    """The trace id of an accepted event."""
    event = {"event_id": event_id, "event_type": "smoke.tested", "source": "smoke", "data": {"well": True}}
    answer, headers = ask(f"{GATEWAY}/api/v1/events", event, "POST")
    if answer["status"] != "accepted":
        raise ValueError(f"not accepted: {answer}")
    return headers.get("traceparent", headers.get("Traceparent", "--")).split("-")[1] or "none"


def received(event_id: str) -> bool:
    compose = os.environ.get("COMPOSE", "docker compose" if _has_plugin() else "docker-compose").split()
    logs = subprocess.run([*compose, "logs", "--no-color", "receiver"], capture_output=True, text=True, check=False)
    return event_id in logs.stdout


def traced(trace_id: str) -> bool:
    """Whether all three tiers are in the trace, as one tree."""
    found, _ = ask(f"{JAEGER}/api/v3/traces/{trace_id}")
    services, spans = set(), {}
    for resource in found["result"]["resourceSpans"]:
        names = {each["key"]: each["value"] for each in resource["resource"]["attributes"]}
        services.add(names["service.name"]["stringValue"])
        for scope in resource["scopeSpans"]:
            spans |= {span["spanId"]: span.get("parentSpanId", "") for span in scope["spans"]}
    roots = [parent for parent in spans.values() if parent not in spans]
    return services >= TIERS and len(roots) == 1


def counted() -> bool:
    query = urllib.parse.urlencode({"query": 'sum(mcp_deliveries_total{outcome="delivered"})'})
    found, _ = ask(f"{PROMETHEUS}/api/v1/query?{query}")
    return bool(found["data"]["result"]) and float(found["data"]["result"][0]["value"][1]) >= 1


def _has_plugin() -> bool:
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


def main() -> None:
    event_id = f"smoke-{uuid.uuid4()}"
    until("a target can be saved", save_target)
    trace_id = until("an event is accepted", lambda: send(event_id))
    until("the receiver has it", lambda: received(event_id))
    until(f"its trace {trace_id} has a span of each tier, in one tree", lambda: traced(trace_id))
    until("Prometheus has counted it", counted)


if __name__ == "__main__":
    main()
