"""A cluster whose network is cut in two: callers are released, the service comes back on their side."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from driver import Driver
from killing import is_gone
from witness import calls_in

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None,
        reason="network namespaces take Linux, root and iproute2",
    ),
]

#: A node that is not heard of is dead after 2 s.
DETECTION = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}


class Network:
    """Two network namespaces with a wire between them; everything in them ends with it."""

    def __init__(self) -> None:
        self.near, self.far = (f"sage-{side}-{os.getpid()}" for side in ("near", "far"))
        self.addresses = {self.near: "10.199.77.1", self.far: "10.199.77.2"}
        self._ends = {self.near: "near", self.far: "far"}

    def __enter__(self):
        for side in self.addresses:
            _ip("netns", "add", side)
        _ip("link", "add", "near", "netns", self.near, "type", "veth", "peer", "name", "far", "netns", self.far)
        for side, address in self.addresses.items():
            _ip("-n", side, "addr", "add", f"{address}/24", "dev", self._ends[side])
            for link in ("lo", self._ends[side]):
                _ip("-n", side, "link", "set", link, "up")
        return self

    def __exit__(self, *_):
        for side in self.addresses:
            for pid in self.pids(side):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            _ip("netns", "del", side)

    @staticmethod
    def within(side):
        """What comes before a command that is to run there."""
        return ["ip", "netns", "exec", side]

    @staticmethod
    def pids(side):
        """The processes there."""
        return [int(pid) for pid in _ip("netns", "pids", side).split()]

    def start_node(self, side, *options):
        """Start a Ray node there, named for it."""
        ray = str(Path(sys.executable).with_name("ray"))
        name = f"--node-name={self._ends[side]}"
        here = f"--node-ip-address={self.addresses[side]}"
        started = subprocess.run(
            [*self.within(side), ray, "start", *options, here, name, "--num-cpus=4", "--object-store-memory=83886080"],
            env=os.environ | DETECTION,
            capture_output=True,
            text=True,
            check=False,
        )
        assert started.returncode == 0, started.stdout + started.stderr

    def cut(self):
        _ip("-n", self.far, "link", "set", "far", "down")

    def mend(self):
        _ip("-n", self.far, "link", "set", "far", "up")


def _ip(*arguments):
    done = subprocess.run([shutil.which("ip"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_calls_across_a_partition_are_bounded_and_its_replicas_replaced(ray_folder, tmp_path):
    """When the network is whole again, what was on the other side is gone."""
    witness = tmp_path / "witness"
    with Network() as network:
        head = f"{network.addresses[network.near]}:6399"
        options = ["--head", "--port=6399", "--include-dashboard=false", f"--temp-dir={ray_folder}"]
        network.start_node(network.near, *options)
        network.start_node(network.far, f"--address={head}")
        with Driver(head, witness, within=network.within(network.near), control_timeout=2) as driver:
            before = driver.do("status")["answer"]
            assert {each["node"] for each in before} == {"near", "far"}
            (lost,) = (each for each in before if each["node"] == "far")
            assert [driver.do("call", "run", number)["answer"] for number in range(10)] == list(range(10))

            network.cut()
            began = time.monotonic()
            told, number = [], 10
            while not _is_replaced(driver):
                assert time.monotonic() - began < 60
                told.append(driver.do("call", "run", number))
                number += 1
            took = time.monotonic() - began
            assert max(each["seconds"] for each in told) < 5.5  # their time-out is 5 s
            assert {each.get("error") for each in told} <= {None, "ReplicaDiedError", "CallTimeoutError"}
            assert [driver.do("call", "run", each)["answer"] for each in range(number, number + 10)]

            network.mend()
            pause = threading.Event()
            while not is_gone(lost["pid"]):
                assert time.monotonic() - began < 90
                pause.wait(0.1)
            driver.kill()

    ran = Counter(calls_in(witness))
    assert set(ran.values()) == {1}
    assert took < 30


def _is_replaced(driver):
    found = driver.do("status")["answer"]
    return [(each["state"], each["node"]) for each in found] == [("ready", "near")] * 2
