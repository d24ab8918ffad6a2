"""What k8s/ renders to: valid, hardened, joined by exactly the flows of the design, scaled by metrics that exist."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes_validate
import pytest
import yaml

from k8s import copies
from services.control import readings
from services.ingest import intake
from tas_mcp import telemetry
from tests.certificates import Authority
from tests.nats_server import BINARY

Object = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = "1.34"
TIERS = ("ingest", "process", "forward", "control")
COMPONENTS = ("nats", "tls", "keda", "monitoring", "prometheus-adapter", "jaeger", "mesh")
OVERLAYS = ("local", "production")
BUILDS: dict[str, tuple[str, ...]] = {
    "base": (),
    **{name: ("nats", name) if name != "nats" else ("nats",) for name in COMPONENTS},
    "all": tuple(name for name in COMPONENTS if name != "mesh"),
    "all in a mesh": tuple(name for name in COMPONENTS if name != "tls"),
}
CUSTOM = {
    ("cert-manager.io/v1", "Certificate"),
    ("cert-manager.io/v1", "Issuer"),
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
}
"""Kinds that a cluster has only after somebody installed them."""
MADE_ELSEWHERE = {"tas-nats", "tas-keys", "nats-tls", "public-tls"}
"""Secrets of the operator, and of cert-manager."""

PORTS = (53, 4222, 4318, 6222, 8080, 8222, 9090, 16686, 50051)
FLOWS = (
    {("clients", tier, port) for tier in ("ingest", "control") for port in (8080, 50051)}
    | {("metrics", tier, 9090) for tier in TIERS}
    | {("metrics", "nats", 8222), ("metrics", "jaeger", 16686)}
    | {(tier, "nats", 4222) for tier in TIERS}
    | {(tier, "jaeger", 4318) for tier in TIERS}
    | {("nats", "nats", 6222)}
    | {(pod, "names", 53) for pod in (*TIERS, "nats", "jaeger")}
    | {("forward", "internet", port) for port in PORTS}
)


@pytest.fixture(scope="module")
def render(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Object]]:
    """What an overlay, or one of BUILDS, is made into."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is needed, which renders k8s/ (kubectl kustomize)")
    tree = tmp_path_factory.mktemp("k8s") / "k8s"
    shutil.copytree(ROOT / "k8s", tree, ignore=shutil.ignore_patterns("secrets"))
    local = yaml.safe_load((tree / "overlays" / "local" / "kustomization.yaml").read_text())
    for generator in local["secretGenerator"]:
        for entry in generator["files"]:
            path = tree / "overlays" / "local" / entry.partition("=")[2]
            path.parent.mkdir(exist_ok=True)
            path.write_text("not a secret")
    done: dict[str, list[Object]] = {}

    def rendered(name: str) -> list[Object]:
        if name not in done:
            folder = tree / "overlays" / name.replace(" ", "-")
            if name in BUILDS:
                folder.mkdir()
                parts = [f"../../components/{each}" for each in BUILDS[name]]
                (folder / "kustomization.yaml").write_text(json.dumps({"resources": ["../../base"], "components": parts}))
            made = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
            assert made.returncode == 0, made.stderr
            assert not made.stderr  # warnings: what is deprecated
            done[name] = [each for each in yaml.safe_load_all(made.stdout) if each]
        return done[name]

    return rendered


def of(objects: list[Object], kind: str) -> dict[str, Object]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Every workload's pod: its name, its template."""
    for kind in ("Deployment", "StatefulSet"):
        for name, each in of(objects, kind).items():
            yield name, each["spec"]["template"]


@cache
def valid(text: str) -> bool:
    """False for a kind that Kubernetes does not have by itself. Raises what is wrong with it. Builds have most objects alike."""
    try:
        kubernetes_validate.validate(json.loads(text), KUBERNETES, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return False
    return True


@pytest.mark.parametrize("name", [*OVERLAYS, *BUILDS])
def test_every_object_is_valid(render: Callable[[str], list[Object]], name: str) -> None:
    unknown = {(each["apiVersion"], each["kind"]) for each in render(name) if not valid(json.dumps(each))}
    assert unknown <= CUSTOM


@pytest.mark.parametrize("name", [*OVERLAYS, *BUILDS])
def test_what_is_named_is_there(render: Callable[[str], list[Object]], name: str) -> None:
    objects = render(name)
    made = {kind: set(of(objects, kind)) for kind in ("ConfigMap", "Secret")}
    for pod, template in pods(objects):
        spec = template["spec"]
        for volume in spec["volumes"]:
            for source in (volume, *volume.get("projected", {}).get("sources", ())):
                if "configMap" in source:
                    assert source["configMap"]["name"] in made["ConfigMap"], pod
                secret = source.get("secret", {})
                if secret:
                    assert secret.get("secretName", secret.get("name")) in made["Secret"] | MADE_ELSEWHERE, pod
        for container in spec["containers"]:
            for each in container.get("envFrom", ()):
                assert each["configMapRef"]["name"] in made["ConfigMap"]
            claimed = {"data"} if pod == "nats" else set()
            mounts = {each["name"] for each in container["volumeMounts"]}
            assert mounts == {each["name"] for each in spec["volumes"]} | claimed, pod
        if "serviceAccountName" in spec:
            assert spec["serviceAccountName"] in of(objects, "ServiceAccount")
    for service in of(objects, "Service").values():
        pod = service["spec"]["selector"]["app.kubernetes.io/name"]
        offered = {port["name"] for port in dict(pods(objects))[pod]["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= offered


@pytest.mark.parametrize("name", [*OVERLAYS, "jaeger"])
def test_every_pod_is_restricted_and_probed(render: Callable[[str], list[Object]], name: str) -> None:
    for pod, template in pods(render(name)):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, pod
        assert spec["enableServiceLinks"] is False, pod
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container), pod
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            assert ":" in container["image"]
            assert not container["image"].endswith(":latest")


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_stop_has_time_to_drain(render: Callable[[str], list[Object]], name: str) -> None:
    objects = render(name)
    [settings] = [each["data"] for key, each in of(objects, "ConfigMap").items() if key.startswith("tas-settings")]
    for pod, template in pods(objects):
        if pod in TIERS:
            [container] = template["spec"]["containers"]
            before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert template["spec"]["terminationGracePeriodSeconds"] > before + float(settings["TAS_DRAIN_SECONDS"])
            assert container["startupProbe"]["httpGet"]["path"] == "/livez"  # a broker that is away is no reason to restart
            assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_each_tier_has_its_own_autoscaler_and_budget(render: Callable[[str], list[Object]]) -> None:
    objects = render("production")
    assert {
        name: [
            metric.get("pods", metric.get("external", {})).get("metric", {}).get("name") or metric["resource"]["name"]
            for metric in each["spec"]["metrics"]
        ]
        for name, each in of(objects, "HorizontalPodAutoscaler").items()
    } == {
        "ingest": ["mcp_events_per_second", "cpu"],
        "process": ["mcp_consumer_pending"],
        "forward": ["mcp_deliverable_pending"],
        "control": ["cpu"],
    }
    for name, each in of(objects, "HorizontalPodAutoscaler").items():
        assert each["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        assert "replicas" not in of(objects, "Deployment")[name]["spec"]  # or each apply would scale it back
    assert set(of(objects, "PodDisruptionBudget")) == {*TIERS, "nats"}
    assert of(objects, "StatefulSet")["nats"]["spec"]["replicas"] == 3


def test_every_metric_that_scales_is_exported_or_made_by_the_adapter(render: Callable[[str], list[Object]]) -> None:
    adapter = yaml.safe_load((ROOT / "k8s" / "components" / "prometheus-adapter" / "config.yaml").read_text())
    made = {rule["name"]["as"]: rule for kind in ("rules", "externalRules") for rule in adapter[kind]}
    for each in of(render("production"), "HorizontalPodAutoscaler").values():
        for metric in each["spec"]["metrics"]:
            if metric["type"] != "Resource":
                assert metric[metric["type"].lower()]["metric"]["name"] in made
    assert None not in (intake.EVENTS, readings.PENDING, readings.DELIVERABLE)  # their modules are loaded
    page = telemetry.render("text/plain")[0].decode()
    for rule in made.values():
        name = rule["seriesQuery"].partition("{")[0]
        assert f"# HELP {name} " in page
        if name != "mcp_events_total":
            assert rule["metricsQuery"].startswith("max(")  # every replica of control tells the same number


def test_keda_scales_what_it_scales_alone(render: Callable[[str], list[Object]]) -> None:
    objects = render("keda")
    assert set(of(objects, "HorizontalPodAutoscaler")) == {"ingest", "control"}
    assert {name: each["spec"]["minReplicaCount"] for name, each in of(objects, "ScaledObject").items()} == {
        "process": 0,
        "forward": 2,
    }


class Side(NamedTuple):
    """One end of a connection: a pod of ours by its labels, a namespace by its, or an address."""

    labels: dict[str, str] | None = None
    namespace: dict[str, str] | None = None
    outside: bool = False


SIDES = {
    **{name: Side(labels={"app.kubernetes.io/name": name}) for name in (*TIERS, "nats", "jaeger")},
    "clients": Side(namespace={"tas-mcp/clients": "true"}),
    "metrics": Side(namespace={"tas-mcp/metrics": "true"}),
    "names": Side(namespace={"kubernetes.io/metadata.name": "kube-system"}),
    "elsewhere": Side(namespace={}),
    "internet": Side(outside=True),
}


def selects(selector: Object, labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        each["operator"] == "In" and labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ())
    )


def meets(peer: Object, side: Side) -> bool:
    if "ipBlock" in peer:
        return side.outside and peer["ipBlock"]["cidr"] == "0.0.0.0/0"
    if "namespaceSelector" in peer:
        return side.namespace is not None and selects(peer["namespaceSelector"], side.namespace)
    return side.labels is not None and selects(peer["podSelector"], side.labels)


def allowed(policies: list[Object], direction: str, pod: Side, other: Side, port: int) -> bool:
    """Whether a pod of ours may have a connection with the other, by the rules of one direction."""
    if pod.labels is None:
        return True  # not ours to say
    ours = [
        each["spec"]
        for each in policies
        if direction in each["spec"]["policyTypes"] and selects(each["spec"]["podSelector"], pod.labels)
    ]
    assert ours  # else all would be allowed
    rules = [rule for spec in ours for rule in spec.get(direction.lower(), ())]
    return any(
        any(meets(peer, other) for peer in rule["from" if direction == "Ingress" else "to"])
        and ("ports" not in rule or port in {each["port"] for each in rule["ports"]})
        for rule in rules
    )


def test_the_policies_allow_the_flows_of_the_design_and_no_others(render: Callable[[str], list[Object]]) -> None:
    policies = list(of(render("all"), "NetworkPolicy").values())
    assert {
        (start, end, port)
        for start, origin in SIDES.items()
        for end, goal in SIDES.items()
        for port in PORTS
        if origin.labels or goal.labels
        if allowed(policies, "Egress", origin, goal, port) and allowed(policies, "Ingress", goal, origin, port)
    } == FLOWS


def test_the_secrets_that_the_guide_makes_are_those_that_are_read(render: Callable[[str], list[Object]]) -> None:
    guide = (ROOT / "docs" / "deploy.md").read_text().replace("\\\n", " ")
    made = {
        (name, key)
        for name, files in re.findall(r"create secret generic (\S+)(.*)", guide)
        for key in re.findall(r"--from-file=(\w+)=", files)
    }
    objects = render("production")
    read = {
        (source["secret"]["name"], item["key"])
        for _, template in pods(objects)
        for volume in template["spec"]["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
        for item in source["secret"]["items"]
    } | {
        (each["valueFrom"]["secretKeyRef"]["name"], each["valueFrom"]["secretKeyRef"]["key"])
        for _, template in pods(objects)
        for each in template["spec"]["containers"][0].get("env", ())
        if "secretKeyRef" in each.get("valueFrom", {})
    }
    assert made == read


def test_copies_are_what_they_were_copied_from() -> None:
    for path, text in copies.copies().items():
        assert path.read_text() == text, f"{path} is old: run python3 k8s/copies.py"


@pytest.mark.parametrize("component", ["nats", "tls"])
def test_the_broker_takes_its_configuration(tmp_path: Path, component: str) -> None:
    authority = Authority()
    pair = authority.issue()
    for name, text in {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.certificate}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "nats.conf").write_text((ROOT / "k8s" / "components" / "nats" / "nats.conf").read_text())
    config = (ROOT / "k8s" / "components" / component / "cluster.conf").read_text()
    (tmp_path / "cluster.conf").write_text(config.replace("/run/tls/nats", str(tmp_path)))
    users = {f"TAS_NATS_{user.upper()}_PASSWORD": f"of-{user}" for user in (*TIERS, "system")}
    more = {"TAS_NATS_STORE_KEY": "", "TAS_NATS_SYNC_INTERVAL": "always", "TAS_NATS_SERVER_NAME": "nats-0"}
    checked = subprocess.run(
        [BINARY, "-t", "-c", tmp_path / "cluster.conf", "-sd", tmp_path],
        capture_output=True,
        text=True,
        env=users | more,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_the_cluster_over_tls_is_the_same_cluster() -> None:
    plain, secured = ((ROOT / "k8s" / "components" / name / "cluster.conf").read_text() for name in ("nats", "tls"))
    secured = re.sub(r"^ *tls \{.*?\}$", "", secured, flags=re.MULTILINE | re.DOTALL)
    assert settings_of(secured) == settings_of(plain)


def settings_of(config: str) -> list[str]:
    return [line for each in config.splitlines() if (line := each.partition("  #")[0].rstrip()) and not line.startswith("#")]
