"""A third-party target on the link library passes the test suite for targets. It is not installed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import acme_sockets
import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from killing import is_gone, kill_replica
from sage_deploy_testing.suites.probes import Probe
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.plugins.registry import Registry
from strategies_in_turn import StrategiesInTurn

pytestmark = pytest.mark.timeout(180)

REGISTRY = Registry.of(
    acme_sockets, sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading
)


class TestSockets(StrategiesInTurn):
    plugin_id = "sockets"
    one_in = 100  # each starts processes, and tests/process runs the same cases over the same link
    starting = 3.0  # a process takes longer to start than a thread
    while_running = 1.0  # a replica's first call of another service imports the modules that it needs
    patience = 40.0  # some cases start dozens

    @pytest.fixture(autouse=True)
    def importable_in_replicas(self, monkeypatch):
        """Let the replicas import the target from the folder that this process uses."""
        monkeypatch.setenv("PYTHONPATH", str(Path(acme_sockets.__file__).parent.parent))

    def registry(self):
        return REGISTRY

    def strategies(self):
        return ["pool", "async"]

    def kill(self, service, replica_id):
        kill_replica(service.status, replica_id)


def test_status_file_has_the_services_of_the_environment(tmp_path):
    """The third-party extension sees a deployed environment through `Operations` alone."""
    path = tmp_path / "status.json"
    with Environment("test", registry=REGISTRY, options={"status_file": {"path": str(path)}}) as env:
        env.register_service_with_config("svc", Probe, deployment_config=ServiceDeploymentConfig(target="local"))
        env.deploy()
        assert "svc" in json.dumps(json.loads(path.read_text(encoding="utf-8")))


PROGRAM = """
import time
import acme_sockets, sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading
from sage_deploy_testing.suites.probes import Probe
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.plugins.registry import Registry

registry = Registry.of(acme_sockets, sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)
with Environment("test", registry=registry) as env:
    config = ServiceDeploymentConfig(target="sockets", threading_strategy="single")
    env.register_service_with_config("svc", Probe, deployment_config=config)
    env.deploy()
    (lane,) = env.task("svc")._router.lanes
    print(env.get_service_status("svc")["replicas"][0]["pid"], lane.address.place, flush=True)
    time.sleep(100)
"""  # noqa: E501 - a program


@pytest.fixture
def short_folder():
    """A folder for a program that the test kills. Its path is short, because a socket's path must be."""
    with TemporaryDirectory() as folder:
        yield folder


def test_replica_ends_when_the_program_is_killed(short_folder):
    """A replica's process ends when its connection closes, and removes its socket."""
    environment = {**os.environ, "PYTHONPATH": str(Path(acme_sockets.__file__).parent.parent), "TMPDIR": short_folder}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, env=environment) as program:
        pid, path = program.stdout.readline().decode().split()
        assert Path(path).exists()
        program.kill()
    until = time.monotonic() + 20
    while not is_gone(int(pid)):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert not Path(path).parent.exists()


def test_sockets_are_removed_with_what_they_lead_to(monkeypatch):
    """Stopping or killing a replica removes its socket. Draining the last service removes the directory's socket."""
    monkeypatch.setenv("PYTHONPATH", str(Path(acme_sockets.__file__).parent.parent))
    with Environment("test", registry=REGISTRY) as env:
        for name in ("kept", "svc"):
            config = ServiceDeploymentConfig(target="sockets", threading_strategy="single")
            env.register_service_with_config(name, Probe, deployment_config=config)
        env.deploy()
        folders = {name: Path(env.task(name)._router.lanes[0].address.place).parent for name in ("kept", "svc")}
        directory = Path(env.task("svc").reach.directory._address.place).parent
        env.drain("svc")
        assert (folders["svc"].exists(), folders["kept"].exists(), directory.exists()) == (False, True, True)
        kill_replica(env.get_service_status("kept"), "kept#0")
        env.drain("kept")
        assert (folders["kept"].exists(), directory.exists()) == (False, False)
