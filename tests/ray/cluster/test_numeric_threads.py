"""`OMP_NUM_THREADS`, from which numeric libraries take their number of threads, follows `cpu_cores`."""

from __future__ import annotations

import sys

import pytest

from sage_plugins import ServiceDeploymentConfig

pytestmark = pytest.mark.ray

#: Stands in for a library that reads the variable once, at its import.
LIBRARY = """
import os

THREADS = os.environ.get("OMP_NUM_THREADS")
"""
SERVICE = """
import numeric_library_double


class Numbers:
    def threads(self):
        return numeric_library_double.THREADS
"""


@pytest.fixture
def threads(cluster, environments, tmp_path, monkeypatch):
    """Return the value that a library finds when the service's module imports it."""
    (tmp_path / "numeric_library_double.py").write_text(LIBRARY, encoding="utf-8")
    (tmp_path / "numeric_service_double.py").write_text(SERVICE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import numeric_service_double

    def found(cores, node="node-a1"):
        env = environments("numbers")
        config = ServiceDeploymentConfig(
            target="remote_specific", target_nodes=[node], cpu_cores=cores, monitors=["metrics"]
        )
        env.register_service_with_config("numbers", numeric_service_double.Numbers, deployment_config=config)
        return env.service("numbers").threads()

    yield found
    for name in ("numeric_service_double", "numeric_library_double"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("cores", "number"),
    [(2.0, "2"), pytest.param(0.5, "1", marks=pytest.mark.slow), pytest.param(None, "1", marks=pytest.mark.slow)],
)
def test_library_finds_as_many_threads_as_whole_cores_are_reserved(threads, cores, number, monkeypatch):
    """
    The library finds as many threads as whole cores are reserved, at least one.

    The deployer's own value is not passed on, because it is about another machine.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "7")

    assert threads(cores) == number


def test_variable_that_a_node_was_started_with_wins(threads, cluster, monkeypatch):
    """A value that the node was started with wins over `cpu_cores`."""
    with monkeypatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "5")
        cluster.add("node-x1")

    assert threads(2.0, "node-x1") == "5"
