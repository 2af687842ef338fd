"""Handles can be sent to other processes of a Ray cluster, and services there call each other, as in one process."""

from __future__ import annotations

import os
import pickle
import signal
from importlib.metadata import version
from textwrap import dedent
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import ray

from driver_service_cases import DriverServiceCases
from sage_deploy_remote.shipping import versions
from sage_plugins import errors
from travelling import (
    BoundCases,
    CallCases,
    ChangeCases,
    HandleCases,
    OwnerCases,
    Program,
    Relay,
    Travelling,
    in_make_test,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]


class OnRay(Travelling):
    """The cases on a cluster, which the other program joins by itself."""

    plugin_id = target = "remote_any"
    config: ClassVar[dict[str, Any]] = {"cpu_cores": 0.01}
    owner = """
        from sage_plugins import Environment, ServiceDeploymentConfig
        from sage_deploy_testing.suites.probes import Probe
        env = Environment("theirs")
        config = ServiceDeploymentConfig(target="remote_any", cpu_cores=0.01)
        env.register_service_with_config("svc", Probe, deployment_config=config)
        handle = env.service("svc")
        open("handle", "wb").write(pickle.dumps(handle))
    """
    join = """
        import ray
        ray.init(address={!r}, namespace="another", logging_level=logging.ERROR, log_to_driver=False)
    """

    @pytest.fixture(autouse=True)
    def on_cluster(self, cluster: Any) -> None:
        self._address = cluster.address

    def program(self, folder: Path, begin: str = Program.TAKE) -> Program:
        return Program(folder, self.join.format(self._address), begin)


# `make test` runs all cases over sockets, and here those in which the directory on the cluster matters most.
@in_make_test(
    "test_handle_as_an_argument_calls_the_service_from_there",
    "test_handle_in_a_file_is_used_by_another_program",
    "test_handle_in_a_forked_child_is_refused_at_once",
)
class TestHandles(HandleCases, OnRay):
    def test_reference_of_another_program_is_an_argument_there(self, tmp_path: Path) -> None:
        """A reference of another program may be an argument there; the method gets its value."""
        svc, _ = self.pair()
        (tmp_path / "handle").write_bytes(pickle.dumps(svc.handle))
        with self.program(tmp_path) as program:
            assert program.ask("len(handle.echo(ray.put(bytes(2**20))))") == str(2**20)

    def test_handle_of_another_version_says_what_to_do(self, tmp_path: Path) -> None:
        """A handle in a process of another version raises an error that names both versions; no call is sent."""
        svc, _ = self.pair()
        (tmp_path / "handle").write_bytes(pickle.dumps(svc.handle))
        other = """
            from sage_deploy_remote.shipping import versions
            versions.NUMBER = 99
        """
        with self.program(tmp_path, dedent(other) + dedent(Program.TAKE)) as program:
            said = program.ask("handle.echo(5)")
        ours = version("sage-deploy-remote")
        assert said == (
            "CallError: service 'svc' cannot be called from this process: the process that deployed it has "
            f"sage-deploy-remote {ours}, which speaks protocol {versions.NUMBER}, and this process has "
            f"sage-deploy-remote {ours}, which speaks protocol 99. Install the same version here and there"
        )
        assert svc.outcomes == {}

    def test_replica_of_another_version_is_refused_at_the_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A replica of another version is refused at its start; the error names both versions."""
        monkeypatch.setattr(versions, "NUMBER", versions.NUMBER + 1)
        svc = self.register()
        said = rf"speaks protocol {versions.NUMBER - 1}, .* protocol {versions.NUMBER}\. Install the same version"
        with pytest.raises(errors.DeployError, match=said) as caught:
            svc.env.deploy()
        assert "the replica's process on node-" in str(caught.value)

    def test_handle_without_a_cluster_says_what_to_do(self, tmp_path: Path) -> None:
        """In a process without a cluster connection, a handle says what to do."""
        svc, _ = self.pair()
        (tmp_path / "handle").write_bytes(pickle.dumps(svc.handle))
        with Program(tmp_path, Program.TAKE) as program:
            assert program.ask("handle.echo(5)").startswith(
                "ClusterUnavailableError: this process is connected to no Ray cluster"
            )


@pytest.mark.slow  # `make test` has the same cases over sockets
class TestChanges(ChangeCases, OnRay):
    @pytest.mark.parametrize("by", ["ray", "signal"])
    def test_services_are_found_again_when_the_directory_has_died(self, by: str) -> None:
        """If the directory dies, callers go on, and learn later changes from its successor."""
        svc, relay = self.pair()
        relay.handle.keep(svc.handle)
        assert relay.handle.use_kept("do", 0) == 0
        directory = svc.env.task("svc").reach.directory.actor()
        if by == "ray":
            ray.kill(directory)
        else:  # Ray does not free the name of an actor that died this way
            os.kill(ray.get(directory.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        assert relay.handle.use_kept("do", 0) == 0
        svc.env.scale("svc", 2)
        self.until(lambda: relay.handle.use_kept("do", 1) == 1)
        late = self.register(Relay, name="late", env=svc.env)
        assert late.handle.ask("svc", "echo", 2) == 2


@pytest.mark.slow  # `make test` has the same cases over sockets
class TestBounds(BoundCases, OnRay):
    pass


@in_make_test("test_chain_of_three_services", "test_service_that_is_not_deployed_is_waited_for")
class TestServicesThatCall(CallCases, OnRay):
    pass


@in_make_test(
    "test_service_in_another_process_calls_one_of_this",
    "test_circle_through_this_process_is_found_at_once",
    "test_program_is_told_that_the_process_of_the_service_has_ended",
)
class TestDriverServices(DriverServiceCases, OnRay):
    pass


@pytest.mark.slow  # `make test` has the same cases over sockets
class TestOwners(OwnerCases, OnRay):
    pass
