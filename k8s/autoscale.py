"""Shows on a cluster that each tier is scaled by its own metric, and by nothing else.

    TAS_TEST_METRIC="<command>" make k8s-test

It applies k8s/overlays/local to the cluster that kubectl speaks with (KUBECONFIG), waits until everything runs, then raises one
metric after another and watches all Deployments. It ends with 1, and says why, where another tier moves or its own does not.

The metrics are set by a command of yours, which is called as

    <command> NAME VALUE -n NAMESPACE                         an External metric, in all
    <command> NAME VALUE --pods -n NAMESPACE -l LABELS        a Pods metric, of each pod
    <command> NAME VALUE --resource -n NAMESPACE -l LABELS    the usage of each container (`cpu 25m`)
    <command> NAME VALUE -n NAMESPACE -l stream=..,consumer=..     an External metric with labels

and has the custom, external and resource metrics of the cluster answer so from then on.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

OVERLAY = Path(__file__).resolve().parent / "overlays" / "local"
NAMESPACE = "tas"
TIERS = ("ingest", "process", "forward", "control")
SECONDS = 180.0
STEADY = 10.0
"""For how long nothing else may move, once the tier has come where it should."""


class Metric(NamedTuple):
    tier: str
    what: str
    name: str
    high: str
    arguments: tuple[str, ...]
    expected: int


METRICS = (
    Metric(
        "process", "consumer lag", "mcp_consumer_pending", "9000", ("-l", "stream=EVENTS,consumer=process"), 5
    ),  # 9000 over 2000 each
    Metric("ingest", "event rate", "mcp_events_per_second", "1500", ("--pods", "-l", "app.kubernetes.io/name=ingest"), 10),
    Metric("forward", "delivery backlog", "mcp_deliverable_pending", "14000", (), 7),
)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def kubectl(*arguments: str) -> str:
    return run("kubectl", "-n", NAMESPACE, *arguments)


def tell(name: str, value: str, arguments: tuple[str, ...] = ()) -> None:
    """Set a metric."""
    run(*shlex.split(os.environ["TAS_TEST_METRIC"]), name, value, "-n", NAMESPACE, *arguments)


def replicas() -> dict[str, int]:
    """How many each tier has and is to have: the larger."""
    found: list[dict[str, Any]] = json.loads(kubectl("get", "deployments", "-o", "json"))["items"]
    return {
        each["metadata"]["name"]: max(each["spec"]["replicas"], each["status"].get("replicas", 0))
        for each in found
        if each["metadata"]["name"] in TIERS
    }


def readable() -> bool:
    """Whether every autoscaler reads its metrics."""
    found = json.loads(kubectl("get", "hpa", "-o", "json"))["items"]
    conditions = [{each["type"]: each["status"] for each in hpa.get("status", {}).get("conditions", ())} for hpa in found]
    return len(found) == len(TIERS) and all(each.get("ScalingActive") == "True" for each in conditions)


def until(what: str, wanted: dict[str, int], moving: str = "") -> float:
    """Seconds until the tiers are as ``wanted``; only ``moving`` may differ meanwhile."""
    began = time.monotonic()
    while time.monotonic() - began < SECONDS:
        now = replicas()
        others = {tier: count for tier, count in now.items() if tier != moving and count != wanted[tier]}
        if moving and others:
            sys.exit(f"{what}: {others} moved too, which only {moving} should")
        if now == wanted:
            return time.monotonic() - began
        time.sleep(0.5)
    sys.exit(f"{what}: {replicas()} after {SECONDS:.0f} s, wanted {wanted}")


def show(metric: Metric, least: dict[str, int]) -> tuple[str, ...]:
    """Raise a metric, see its tier alone follow and come back down: a row of the table."""
    print(f"{metric.what}: {metric.name} = {metric.high}", flush=True)
    full = {**least, metric.tier: metric.expected}
    tell(metric.name, metric.high, metric.arguments)
    up = until(f"{metric.what} high", full, metric.tier)
    print(f"  {metric.tier} {least[metric.tier]} -> {metric.expected} in {up:.0f} s, nothing else", flush=True)
    ended = time.monotonic() + STEADY
    while time.monotonic() < ended:
        if replicas() != full:
            sys.exit(f"{metric.what} high: {replicas()} while nothing changed, wanted {full}")
        time.sleep(1)
    tell(metric.name, "0", metric.arguments)
    down = until(f"{metric.what} low", least, metric.tier)
    print(f"  {metric.tier} {metric.expected} -> {least[metric.tier]} in {down:.0f} s, nothing else", flush=True)
    return metric.what, metric.tier, str(metric.expected), f"{up:.0f}", f"{down:.0f}"


def main() -> None:
    if not os.environ.get("TAS_TEST_METRIC"):
        sys.exit("TAS_TEST_METRIC names no command that sets a metric of the cluster: see the top of k8s/autoscale.py")
    run(str(OVERLAY / "secrets.sh"))
    print(f"applying {OVERLAY} ...", flush=True)
    run("kubectl", "apply", "--warnings-as-errors", "-k", str(OVERLAY))
    for metric in METRICS:
        tell(metric.name, "0", metric.arguments)
    for tier in TIERS:
        tell("cpu", "25m", ("--resource", "-l", f"app.kubernetes.io/name={tier}"))
    for tier in TIERS:
        kubectl("rollout", "status", f"deployment/{tier}", "--timeout=180s")
    kubectl("rollout", "status", "statefulset/nats", "--timeout=180s")
    least = dict.fromkeys(TIERS, 1)
    until("at rest", least)
    ended = time.monotonic() + SECONDS
    while not readable():
        if time.monotonic() > ended:
            sys.exit("autoscalers that cannot read their metrics:\n" + kubectl("get", "hpa"))
        time.sleep(1)
    print("all run, one replica each; every autoscaler reads its metrics", flush=True)
    rows = [("raised", "scaled", "to", "up, s", "down, s"), *(show(metric, least) for metric in METRICS)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
