"""Importing the core, finding plugins, and a first answer import little."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from import_layers import LAYER
from sage_deploy_cli.machine.plugin_imports import HEAVY


@pytest.mark.parametrize(
    "code",
    [
        "import sage_plugins",
        "from sage_plugins.plugins.registry import Registry; Registry.discover()",
    ],
)
def test_start_imports_nothing_heavy(code):
    """Importing the core and discovering all plugins imports no heavy module."""
    program = f"import sys\n{code}\nimport json; print(json.dumps(sorted(sys.modules)))"
    # -I: ignore the current folder and the caller's Python settings.
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert HEAVY.isdisjoint(json.loads(done.stdout)), sorted(HEAVY & set(json.loads(done.stdout)))


#: Modules for files, plans, options, errors and SAGE, which are imported on first use only.
LATE = {
    "call.batch",
    "call.endings",
    "call.stream",
    "call.stream_reader",
    "compat",
    "compat.task_factory",
    "config.origins",
    "config.secrets",
    "config.shorthand",
    "config.strict_types",
    "config.units",
    "deployment.requests",
    "deployment.scaling",
    "host.batches",
    "interfaces.autoscalers",
    "interfaces.balancers",
    "interfaces.reach",
    "interfaces.strategies",
    "interfaces.targets",
    "planning.plan",
    "planning.planner",
    "planning.settings",
    "resilience.autoscaling",
    "routing.method_limits",
    "service.call_key",
    "service.callers",
    "service.runtime_errors",
}


def test_first_answer_imports_no_more_than_it_takes():
    """A service registered in code with default settings answers without importing the modules in `LATE`."""
    program = """
import sys
from sage_plugins import Environment
with Environment() as env:
    env.register_service("echo", type("Echo", (), {"echo": lambda self, value: value}))
    assert env.service("echo").echo(1) == 1
import json; print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    modules = set(json.loads(done.stdout))
    assert HEAVY.isdisjoint(modules)
    assert {name.partition(".")[0] for name in LATE} <= set(LAYER)
    assert {f"sage_plugins.{name}" for name in LATE}.isdisjoint(modules)
    others = {name for name in modules if name.startswith(("sage_deploy_files.", "sage_deploy_cli."))}
    assert others == {"sage_deploy_cli.plugin"}
    assert "importlib.metadata" not in modules, "the metadata of a distribution was read, which messages need"
