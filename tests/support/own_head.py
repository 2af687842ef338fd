"""A Ray head in its own process, for tests that kill or reconfigure it. As a script, this module is that process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class OwnHead(subprocess.Popen[str]):
    """
    A running cluster of one node.

    Attributes:
        address: The address for drivers.
    """

    def __init__(self, folder: Path, port: int = 0, **variables: str) -> None:
        """
        Start the cluster, which takes 2 s.

        Args:
            folder: Folder for Ray's session.
            port: Port of its server. Default: a free one.
            **variables: Environment variables in addition to those of this process.
        """
        environment = os.environ | {"RAY_TMPDIR": str(folder)} | variables
        super().__init__(
            [sys.executable, __file__, str(port)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.stdout is not None
        said = json.loads(self.stdout.readline())
        self.address: str = said["address"]
        self._gcs: int = said["gcs"]

    def lose(self) -> None:
        """Kill the head's server. The node keeps running."""
        os.kill(self._gcs, signal.SIGKILL)

    def start_again(self) -> None:
        """Restart the head's server at the same address, after `lose`. The variables decide what it remembers."""
        assert self.stdin is not None
        assert self.stdout is not None
        self.stdin.write("again\n")
        self.stdin.flush()
        self._gcs = json.loads(self.stdout.readline())["gcs"]

    def __exit__(self, *exception: object) -> None:
        """End the cluster and everything that it started."""
        assert self.stdin is not None
        self.stdin.close()
        super().__exit__(*exception)


def _main(port: int) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 4,
            "include_dashboard": False,
            "no_monitor": True,  # as in ray_cluster
            "include_log_monitor": False,
            "object_store_memory": 80 * 2**20,
            "gcs_server_port": port,
        },
    )
    node = cluster.head_node

    def say() -> None:
        gcs = node.all_processes["gcs_server"][0].process.pid
        print(json.dumps({"address": cluster.address, "gcs": gcs}), flush=True)  # noqa: T201 - the parent reads it

    say()
    for _ in sys.stdin:
        node.kill_gcs_server(check_alive=False)  # after that it is dead, and its port is free
        node.start_gcs_server()
        say()
    cluster.remove_node(node, allow_graceful=False)  # otherwise a node waits long for a head that a test has killed


if __name__ == "__main__":
    _main(int(sys.argv[1]))
