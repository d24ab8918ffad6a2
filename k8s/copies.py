"""Copies of what lies in deploy/, for kustomize, which reads nothing outside its own folder.

python3 k8s/copies.py        after a change of nats.conf, of a dashboard or of the rules; a test compares
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEPLOY, COMPONENTS = ROOT / "deploy", ROOT / "k8s" / "components"
NOTE = "# Made by k8s/copies.py.\n"


def indented(text: str, spaces: int) -> str:
    return "".join(" " * spaces + line if line.strip() else line for line in text.splitlines(keepends=True))


def rules() -> str:
    """The alerting and recording rules, as the Prometheus operator takes them."""
    head = "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: tas-mcp\n  namespace: tas\nspec:\n"
    return NOTE + head + indented((DEPLOY / "prometheus" / "rules.yml").read_text(), 2)


def dashboard(path: Path) -> str:
    """A ConfigMap with the label that Grafana's sidecar looks for."""
    head = f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: tas-mcp-{path.stem}\n  namespace: tas\n"
    return head + f'  labels: {{grafana_dashboard: "1"}}\ndata:\n  {path.name}: |\n' + indented(path.read_text(), 4)


def dashboards() -> str:
    return NOTE + "---\n".join(map(dashboard, sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))))


def copies() -> dict[Path, str]:
    """What each copy must hold."""
    return {
        COMPONENTS / "nats" / "nats.conf": (DEPLOY / "nats" / "nats.conf").read_text(),
        COMPONENTS / "monitoring" / "rules.yaml": rules(),
        COMPONENTS / "monitoring" / "dashboards.yaml": dashboards(),
    }


if __name__ == "__main__":
    for path, text in copies().items():
        path.write_text(text)
