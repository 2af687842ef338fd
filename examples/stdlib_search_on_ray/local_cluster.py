"""Runs a Ray cluster of named nodes on this machine, to try features that need several machines."""

from __future__ import annotations

import os
import signal
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["LocalCluster", "local_cluster"]

#: Bytes of shared memory for the objects of each node. Ray's default is a third of the machine's memory.
_OBJECT_STORE: Final = 80 * 2**20

#: The head checks each node every 0.3 s. After three checks without an answer it counts the node as dead. With Ray's
#: defaults this takes 15 s.
_FAST_DETECTION: Final = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 300,
    "health_check_failure_threshold": 3,
}


class LocalCluster:
    """
    The running cluster. Use it from the main thread only: Ray's nodes set signal handlers.

    Attributes:
        address: The address of its head, in the form that `RAY_ADDRESS` and `options.ray.address` take.
    """

    def __init__(self, names: Iterable[str], cpus: int) -> None:
        from ray.cluster_utils import Cluster  # takes a second, and reads the variables that `local_cluster` sets

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,  # no replica runs on the head, because this process is connected to it
                "node_name": "head",
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE,
                "_system_config": _FAST_DETECTION,
            },
        )
        self.address: str = self._cluster.address
        self._nodes: dict[str, Any] = {}
        try:
            for name in names:
                self._nodes[name] = self._cluster.add_node(
                    node_name=name, num_cpus=cpus, object_store_memory=_OBJECT_STORE
                )
        except BaseException:
            self.close()
            raise

    def kill(self, name: str) -> None:
        """Kill a node as a power cut does: all its processes end at once, without notice."""
        import psutil

        node = self._nodes.pop(name)
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        for process in (*raylet.children(recursive=True), raylet):
            process.kill()
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


@contextmanager
def local_cluster(names: Iterable[str], *, cpus: int = 2) -> Iterator[LocalCluster]:
    """
    Run a cluster for the duration of a `with` block. It takes 5 to 15 s to start.

    Call it before anything imports `ray`. Inside the block `RAY_ADDRESS` is the cluster's address, for this process and
    its child processes.

    Args:
        names: The names of its nodes. The cluster also has a head.
        cpus: The number of CPUs that each node reports.
    """
    # A short path: the paths of the sockets in it may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="sd-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.environ.update(
            RAY_AUTH_MODE="disabled",  # only this machine can reach it, and a token would stay in the home folder
            RAY_USAGE_STATS_ENABLED="0",
            RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # listens on this machine only, as on Windows and macOS
            RAY_TMPDIR=folder,
        )
        os.environ.pop("RAY_ADDRESS", None)
        handler = signal.getsignal(signal.SIGTERM)
        cluster = LocalCluster(names, cpus)
        signal.signal(signal.SIGTERM, handler)  # Ray has set its own handler
        try:
            os.environ["RAY_ADDRESS"] = cluster.address
            yield cluster
        finally:
            os.environ.pop("RAY_ADDRESS", None)
            cluster.close()
