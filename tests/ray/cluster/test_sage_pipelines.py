"""A SAGE pipeline in this process calls services on the nodes of a cluster, as a deployment file says."""

from __future__ import annotations

import os

import pytest
from sage.runtime import BaseService

from sage_steps import PATIENCE, run_batch, start_stream

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

FILE = """
defaults:
  resources: {cpu_cores: 0.1}
  monitoring: {monitors: [metrics]}
services:
  far:
    deployment: {target: remote_specific, target_nodes: [node-b1], threading_strategy: multi, thread_count: 4}
  near:
    deployment: {threading_strategy: pool, thread_count: 2}
"""


class Far(BaseService):
    """A service with SAGE's base class that returns where it runs."""

    def process(self, value):
        return self.name, self.call_service("beside", value), os.getpid()

    def fail(self, key):
        raise KeyError(key)


class Beside:
    """A plain service, without SAGE's base class."""

    def process(self, value):
        return value + 1


class Near:
    def execute(self, value):
        return value, os.getpid()


@pytest.fixture
def env(cluster, sage_env, tmp_path):
    """Services on two targets, as the file says."""
    file = tmp_path / "service_deployment.yaml"
    file.write_text(FILE, encoding="utf-8")
    sage_env.load_service_deployment_config(file)
    sage_env.register_service("near", Near)
    return sage_env


def test_file_decides_where_services_of_a_pipeline_run(env):
    """The file decides where a pipeline's services run. Both answer, and their errors keep their types."""
    env.register_service("far", Far)
    # A remote replica can call only services that it can reach.
    env.register_service_on_nodes("beside", Beside, nodes=["node-a1"], cpu_cores=0.1)

    def both(function, item):
        try:
            function.call_service("far", item, method="fail")
        except KeyError as error:
            return function.call_service("far", item), function.call_service("near", item), error.args
        return None

    into, full = start_stream(env, 20, both)
    assert full.wait(PATIENCE)
    statuses = {name: env.get_service_status(name) for name in ("far", "near", "beside")}
    env.close()

    assert [far[1] for far, _, _ in into] == list(range(2, 22))
    assert {args for _, _, args in into} == {(item,) for item in range(1, 21)}
    assert {far[0] for far, _, _ in into} == {"far"}
    assert {near[1] for _, near, _ in into} == {os.getpid()}
    assert len({far[2] for far, _, _ in into} | {os.getpid()}) == 2
    assert {name: status["replicas"][0]["node"] for name, status in statuses.items() if name != "near"} == {
        "far": "node-b1",
        "beside": "node-a1",
    }


def test_batch_on_a_cluster_stops_its_replicas(env):
    """A batch on a cluster stops its replicas at its end. The leak guard checks that no actor is left."""
    env.register_service("far", Beside)
    assert run_batch(env, [1, 2, 3], lambda function, item: function.call_service("far", item)) == [2, 3, 4]
    assert env.get_service_status("far")["state"] == "stopped"
