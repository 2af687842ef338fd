"""The installation is complete: every module imports, every plugin is found, every strategy runs a service."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points

import pytest

from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.plugins.registry import Registry

pytestmark = pytest.mark.wheels

PACKAGES = sorted({point.module.partition(".")[0] for point in entry_points(group="sage_deploy")} | {"sage_plugins"})
STRATEGIES = sorted(id for kind, id in Registry.discover().entries() if kind == "threading strategy")


def modules(package: str) -> list[str]:
    path = import_module(package).__path__
    return [package, *(module.name for module in pkgutil.walk_packages(path, f"{package}."))]


def test_the_packages_are_found():
    """The tests below cover the core and its installed plugins, and no plugin failed to load."""
    assert {"sage_plugins", "sage_deploy_cli", "sage_deploy_local", "sage_deploy_testing"} < set(PACKAGES)
    assert not Registry.discover().failures


@pytest.mark.parametrize("package", [name for name in PACKAGES if name.startswith(("sage_plugins", "sage_deploy_"))])
def test_every_module_can_be_imported(package, tmp_path):
    """Every installed module can be imported in a fresh process."""
    names = modules(package)
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    # -I: only installed packages.
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, *names], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


class Echo:
    def echo(self, value):
        return value


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_runs_a_service(strategy):
    """Every installed strategy runs a service."""
    with Environment() as env:
        config = ServiceDeploymentConfig(threading_strategy=strategy)
        env.register_service_with_config("echo", Echo, deployment_config=config)
        assert env.service("echo").call("echo", 7) == 7
