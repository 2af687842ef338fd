"""The files of examples/monitoring use only metrics and labels that the server exports."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from sage_deploy_server.description import metrics
from sage_plugins import Environment, ServiceDeploymentConfig, batch_of
from sage_plugins.event_kinds import EventKind
from sage_plugins.values import Outcome, ReplicaState

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "monitoring"
GUIDE = ROOT / "docs" / "guides" / "metrics.md"

#: The values that each label can have.
VALUES = {
    "outcome": set(Outcome.NAMES),
    "reason": {
        *("overloaded", "stopped", "no_replica", "circuit_open"),  # calls that were not accepted
        *("died", "start_failed", "unhealthy", "recycled"),  # replicas that were replaced
        *("not_started", "idempotent", "exception", "hedge"),  # calls that ran again
    },
    "state": {"busy", "idle", *(str(state) for state in ReplicaState)},
    "kind": {str(kind) for kind in EventKind},
}
#: Labels that Prometheus itself adds.
TARGET = {"instance", "job"}


class Desk:
    def add(self, a, b):
        return a + b

    @batch_of("add")
    def add_all(self, these, those):
        return [a + b for a, b in zip(these, those, strict=True)]

    def check_health(self):
        return True


@pytest.fixture(scope="module")
def printed():
    """The labels of each metric, exported by a service that was called and has every measured feature."""

    config = ServiceDeploymentConfig(threading_strategy="async", batch_size=2, batch_wait=0.001)
    text, until = "", time.monotonic() + 20
    with Environment("shown") as env:
        env.register_service_with_config("desk", Desk, deployment_config=config)
        env.service("desk").add(1, 2)
        while "\nsage_health_check_duration_seconds_sum" not in text or "\nsage_event_loop_lag_seconds{" not in text:
            assert time.monotonic() < until
            text = metrics.Metrics(env).text()
    return {
        sample.name: set(sample.labels) for family in text_string_to_metric_families(text) for sample in family.samples
    }


def expressions():
    """Return all PromQL expressions by their place."""
    groups = yaml.safe_load((EXAMPLE / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    found = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
    dashboard = json.loads((EXAMPLE / "dashboard.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found[variable["name"]] = variable["query"]["query"]
    return found


@pytest.mark.parametrize("expression", expressions().values(), ids=expressions())
def test_expression_names_what_is_printed(printed, expression):
    """An expression uses only exported metrics, their labels, and values that these labels can have."""
    named = re.findall(r"\b(sage_\w+|up)\b(?:\{([^}]*)\})?", expression)
    assert named
    known = set(TARGET)
    for name, matchers in named:
        labels = printed.get(name, set()) if name != "up" else set()
        assert name == "up" or labels, f"{name} is not printed"
        known |= labels
        for label, operator, values in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers):
            assert label in labels | TARGET
            assert operator == "!=" or label not in VALUES or set(values.split("|")) <= VALUES[label]
    for grouped in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        assert set(grouped.split(", ")) <= known
    assert expression.count("(") == expression.count(")")


def test_alerts_say_whom_to_look_at():
    """Each alert names the service or instance, and has a severity."""
    groups = yaml.safe_load((EXAMPLE / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        assert re.search(r"\$labels\.(service|instance)", rule["annotations"]["summary"])
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_prometheus_reads_the_alerts_and_the_token_from_files():
    """Prometheus reads the alerts and the token from files."""
    config = yaml.safe_load((EXAMPLE / "prometheus.yml").read_text(encoding="utf-8"))
    assert [(EXAMPLE / name).is_file() for name in config["rule_files"]] == [True]
    (job,) = config["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == ("sage-deploy", "/metrics")
    assert set(job["authorization"]) == {"type", "credentials_file"}


def test_panels_do_not_overlap():
    panels = json.loads((EXAMPLE / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels) == len({panel["id"] for panel in panels})


def test_guide_has_every_metric_with_its_labels(printed):
    """The guide lists exactly the exported metrics, each with its labels."""
    rows = re.findall(r"^\| `(sage_\w+)` \| (\w+) \|([^|]*)\|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {}
    for name, kind, labels in rows:
        own = {"service", *re.findall(r"`(\w+)`", labels.partition(", without")[0])}
        if ", without `service`" in labels:
            own.remove("service")
        told |= {f"{name}{end}": own for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name: own}
    assert told == {name: labels - {"le"} for name, labels in printed.items()}
