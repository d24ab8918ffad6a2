"""What the files of deploy/ and k8s/ that watch the gateway hold: expressions, and the names of metrics in them. Pure."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
RUNBOOK = ROOT / "docs" / "runbook.md"
METRICS = ROOT / "docs" / "metrics.md"

VARIABLES = {"$__rate_interval": "5m", "$target": ".*"}
"""What Grafana puts in."""

_LEFT_OUT = re.compile(
    r'"(?:[^"\\]|\\.)*"'  # texts
    r"|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"  # labels
    r'|\{(?:"(?:[^"\\]|\\.)*"|[^"}])*\}'  # matchers
    r"|\[[^\]]*\]"  # ranges
    r"|\boffset\s+\w+"
)
_NAME = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\s*\()\b(?!\s*\()")
_WORDS = {"and", "or", "unless", "bool", "by", "without", "on", "ignoring", "group_left", "group_right", "inf", "nan"}
_SERVED = re.compile(r"^# TYPE (\S+) (\S+)$", re.MULTILINE)
_HEAD = re.compile(r"^# HELP (mcp_\S+) (.*)\n# TYPE \S+ (\w+)$", re.MULTILINE)
_ROW = re.compile(r"^\| `(mcp_\w+)` \| (.*?) \| (\w+) \| (.*) \|$", re.MULTILINE)
_SAMPLE = re.compile(r"^(mcp_\w+?)(?:_bucket)?\{(.*)\} ", re.MULTILINE)
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}
FROM_PROMETHEUS = {"up", "ALERTS"}


class Expression(NamedTuple):
    """PromQL, and where it stands."""

    where: str
    text: str


def names(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    return set(_NAME.findall(_LEFT_OUT.sub(" ", expression))) - _WORDS


def served(page: str) -> set[str]:
    """The names of the samples that a page of /metrics has, or will have."""
    return {name + suffix for name, kind in _SERVED.findall(page) for suffix in _SUFFIXES.get(kind, ("",))}


class Metric(NamedTuple):
    """A metric of ours."""

    name: str
    kind: str
    help: str


def metrics(page: str) -> set[Metric]:
    """Ours of a page of /metrics."""
    return {Metric(name, kind, help) for name, help, kind in _HEAD.findall(page)}


def labelled(page: str) -> Iterator[tuple[str, set[str]]]:
    """The labels of each of our samples that has some (but the bounds of buckets)."""
    for name, labels in _SAMPLE.findall(page):
        if names := set(re.findall(r'(\w+)="', labels)) - {"le"}:
            yield name.removesuffix("_count").removesuffix("_sum"), names


def listed() -> dict[Metric, tuple[str, set[str]]]:
    """Those of docs/metrics.md: below which heading, and with which labels."""
    found = {}
    for section in METRICS.read_text().split("\n## ")[1:]:
        heading = section.partition("\n")[0]
        for name, labels, kind, help in _ROW.findall(section):
            found[Metric(name, kind, help)] = heading, set(re.findall(r"`(\w+)`", labels))
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def recorded() -> set[str]:
    """The names that the rules make."""
    return {rule["record"] for rule in rules() if "record" in rule}


def of_rules() -> list[Expression]:
    return [Expression(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel but the rows."""
    for panel in board["panels"]:
        yield from (each for each in (panel, *panel.get("panels", ())) if each["type"] != "row")


def of_dashboards() -> list[Expression]:
    """Of panels, annotations and variables, with what Grafana would put in."""
    found = []
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        asked = [(panel["title"], target["expr"]) for panel in panels(board) for target in panel["targets"]]
        asked += [(each["name"], each["expr"]) for each in board["annotations"]["list"] if "expr" in each]
        for each in board["templating"]["list"]:
            if values := re.fullmatch(r"label_values\((\w+), \w+\)", each.get("definition", "")):
                asked.append((each["name"], values[1]))
        found += [Expression(f"{path.name}: {title}", _filled(text)) for title, text in asked]
    return found


def _filled(text: str) -> str:
    for variable, value in VARIABLES.items():
        text = text.replace(variable, value)
    return text


def of_autoscalers() -> list[Expression]:
    """The metrics of HorizontalPodAutoscalers, what prometheus-adapter makes them of, and the queries of ScaledObjects."""
    found = []
    for path in sorted((ROOT / "k8s").rglob("*.y*ml")):
        where = path.relative_to(ROOT)
        for document in yaml.safe_load_all(path.read_text()):
            if isinstance(document, dict):
                found += [Expression(f"{where}: {document.get('kind')}", text) for text in _scaled_by(document)]
    return found


def _scaled_by(document: dict[str, Any]) -> Iterator[str]:
    spec = document.get("spec") or {}
    for rule in (*document.get("rules", ()), *document.get("externalRules", ())):
        if "seriesQuery" in rule:
            yield rule["seriesQuery"]
    if document.get("kind") == "HorizontalPodAutoscaler":
        for metric in spec.get("metrics", ()):
            kind = metric["type"].lower()
            if kind in ("pods", "external", "object"):
                yield metric[kind]["metric"]["name"]
    if document.get("kind") == "ScaledObject":
        for trigger in spec.get("triggers", ()):
            if trigger["type"] == "prometheus":
                yield trigger["metadata"]["query"]


def slugs(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
