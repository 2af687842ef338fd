"""The conformance suite for targets, and tests of this target and this extension alone."""

import json
import os
import signal

from acme_sockets.status_file import StatusFile, StatusFileOptions

from sage_deploy_testing import TargetConformance
from sage_deploy_testing.suites.probes import Probe


class TestSockets(TargetConformance):
    plugin_id = "sockets"
    starting = 3.0  # a process takes longer to start than a thread
    while_running = 1.0  # a replica's first call of another service imports modules
    patience = 40.0  # some cases start dozens of processes
    in_turn = True

    def kill(self, service, replica_id):
        (pid,) = [each["pid"] for each in service.status["replicas"] if each["id"] == replica_id]
        os.kill(pid, signal.SIGKILL)

    def test_replica_has_its_own_process(self):
        service = self.deploy(Probe)
        (replica,) = service.status["replicas"]
        assert replica["pid"] != os.getpid()


class Operations:
    """The part of an environment that the extension uses."""

    def status(self):
        return {"services": {}}


def test_status_file_is_written_at_once(tmp_path):
    """The file is complete as soon as `start` returns."""
    path = tmp_path / "status.json"
    extension = StatusFile(StatusFileOptions(path=str(path)))
    extension.start(Operations())
    extension.close()
    assert json.loads(path.read_text()) == {"services": {}}
    assert [each.name for each in tmp_path.iterdir()] == ["status.json"]
