"""Two connected network namespaces in which Ray nodes run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["DETECTION", "NEEDS_NAMESPACES", "Network"]

NEEDS_NAMESPACES = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None,
    reason="network namespaces take Linux, root and iproute2",
)

#: A node without contact counts as dead after 2 s.
DETECTION = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}


class Network:
    """Two network namespaces with a link between them. Everything in them ends with the network."""

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
        """Return the words before a command that run it in a namespace."""
        return ["ip", "netns", "exec", side]

    @staticmethod
    def pids(side):
        """Return the processes in a namespace."""
        return [int(pid) for pid in _ip("netns", "pids", side).split()]

    def start_node(self, side, *options, **variables):
        """Start a Ray node in a namespace, named after it. *variables* are added to its environment."""
        ray = str(Path(sys.executable).with_name("ray"))
        name = f"--node-name={self._ends[side]}"
        here = f"--node-ip-address={self.addresses[side]}"
        started = subprocess.run(
            [*self.within(side), ray, "start", *options, here, name, "--num-cpus=4", "--object-store-memory=83886080"],
            env=os.environ | DETECTION | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert started.returncode == 0, started.stdout + started.stderr

    def wall_off(self, side):
        """Block connections to the ephemeral ports of a namespace. Ray is configured to use other ports."""
        ports = "49152 65535"
        subprocess.run([*self.within(side), "sysctl", "-q", "-w", f"net.ipv4.ip_local_port_range={ports}"], check=True)
        rule = f"tcp flags syn / fin,syn,rst,ack tcp dport {ports.replace(' ', '-')} drop"
        wall = f"table inet wall {{ chain input {{ type filter hook input priority 0; {rule}; }}; }}"
        subprocess.run([*self.within(side), "nft", wall], check=True)

    def cut(self):
        _ip("-n", self.far, "link", "set", "far", "down")

    def mend(self):
        _ip("-n", self.far, "link", "set", "far", "up")


def _ip(*arguments):
    done = subprocess.run([shutil.which("ip"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
