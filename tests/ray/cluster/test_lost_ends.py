"""The deploying process or the cluster's head is killed: which services end, and which go on."""

from __future__ import annotations

import os
import signal

import pytest
import ray

from driver import Driver
from killing import is_gone
from own_head import OwnHead

pytestmark = pytest.mark.ray


@pytest.fixture
def driver(tmp_path):
    """Start a process that deploys a service on a cluster; it is killed at the end of the test."""
    started = []

    def start(address, **options):
        started.append(Driver(address, tmp_path / "witness", **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_replicas_of_a_driver_that_is_killed_are_gone_soon(cluster, driver, until):
    """The replicas of a killed driver end soon, because nobody can call or count them."""
    process = driver(cluster.address)
    assert process.do("call", "run", 0)["answer"] == 0

    process.kill()

    until(lambda: all(map(is_gone, process.pids)))
    assert not [name for name in ray.util.list_named_actors(all_namespaces=True) if "svc" in str(name)]


@pytest.mark.slow  # half a minute, most of it Ray's own
def test_service_goes_on_without_the_head_and_cannot_be_scaled(ray_folder, driver, until):
    """Without the head, calls and the status go on, with dead replicas shown. Scaling fails in time."""
    with OwnHead(ray_folder) as head:
        process = driver(head.address, control_timeout=2)
        assert process.do("call", "run", 0)["answer"] == 0

        head.lose()

        assert [process.do("call", "run", number)["answer"] for number in range(1, 5)] == [1, 2, 3, 4]
        status = process.do("status")
        assert [each["state"] for each in status["answer"]] == ["ready", "ready"]
        assert status["seconds"] < 2
        refused = process.do("scale", 3)
        assert (refused["error"], head.address in refused["text"]) == ("ClusterUnavailableError", True)
        assert refused["seconds"] < 5

        os.kill(process.pids[0], signal.SIGKILL)
        told = [process.do("call", "run", number) for number in range(5, 9)]
        assert all(each.get("error") in {None, "ReplicaDiedError"} for each in told)
        assert sum("error" in each for each in told) <= 1
        assert all(each["seconds"] < 5 for each in told)
        until(lambda: [each["state"] for each in process.do("status")["answer"]] == ["failed", "ready"])
        process.kill()


@pytest.mark.slow  # half a minute, most of it Ray's own
def test_head_that_remembers_starts_again_and_the_program_goes_on(ray_folder, tmp_path, driver, until):
    """If the head restarts with its memory, the program can change the service again; its replicas are the same."""
    memory = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(tmp_path / "head")}
    with OwnHead(ray_folder, **memory) as head:
        process = driver(head.address, control_timeout=2)
        head.lose()
        assert process.do("scale", 3)["error"] == "ClusterUnavailableError"

        head.start_again()

        until(lambda: process.do("scale", 3).get("answer", "failed") is None)
        until(lambda: [each["state"] for each in process.do("status")["answer"]] == ["ready"] * 3)
        assert [each["pid"] for each in process.do("status")["answer"]][:2] == process.pids
        process.kill()
