"""A Ray cluster of several nodes on this machine for tests. All its processes end with it."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ray
from ray._private import state as gcs_tables
from ray.cluster_utils import Cluster

from sage_deploy_testing.tools.leak_guard import Resources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAMESPACE: Final = "sage-deploy-tests"

#: A killed node counts as dead after about 1 s, a frozen one after 4 s. With Ray's defaults it takes 15 s and 60 s. A
#: shorter timeout would kill nodes that only wait for a core of a busy machine.
FAST_DETECTION: Final = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}

#: Measurements that no test reads. They keep idle processes busy.
_MEASURES_NOTHING: Final = {
    "enable_metrics_collection": False,
    "event_stats": False,
    "memory_monitor_refresh_ms": 0,
    "task_events_report_interval_ms": 0,
}

_PATIENCE: Final = 20.0
_OBJECT_STORE: Final = 80 * 2**20
_LIVING: Final = ("DEPENDENCIES_UNREADY", "PENDING_CREATION", "ALIVE", "RESTARTING")
#: Titles of idle workers and of Ray's own processes under a raylet. A busy worker is named after its work.
_IDLE: Final = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
#: The actor that a deploying process keeps while it is connected, and the one that stays.
_DIRECTORIES: Final = ("DirectoryActor", "RegistryActor")

#: Threads of Ray's Python side, and files that it opens besides sockets.
_THREADS: Final = ("PythonGCThread", "ray_listen_error_messages")
_RAYS_OWN_FILES: Final = ("anon_inode:[event", "anon_inode:[timerfd]", "/dev/shm/plasma")  # noqa: S108 - Ray's choice


class RayNode:
    """One node: a raylet, its agents and its workers."""

    def __init__(self, cluster: RayCluster, name: str, node: Any) -> None:
        self.name = name
        self.id: str = node.node_id
        self._cluster = cluster
        self._node = node
        self._gone = False

    @property
    def raylet(self) -> int:
        """Process ID of the raylet."""
        return self._node.all_processes["raylet"][0].process.pid

    @property
    def children(self) -> dict[int, str]:
        """Title of each process that the raylet started: workers and agents, by process ID."""
        found = {}
        for task in Path(f"/proc/{self.raylet}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # the thread has ended
                for pid in map(int, task.read_text(encoding="ascii").split()):
                    found[pid] = title_of(pid)
        return found

    def kill(self) -> None:
        """Kill raylet, agents and workers at once without telling anybody, as a power cut does."""
        doomed = [self.raylet, *self.children]
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._take_out(allow_graceful=False)

    def remove(self) -> None:
        """Remove the node from the cluster as an operator does. Do nothing if it is gone."""
        if not self._gone:
            self._take_out(allow_graceful=True)

    def freeze(self) -> None:
        """Stop the raylet with SIGSTOP, as if the network had failed. Its workers continue."""
        os.kill(self.raylet, signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue the raylet."""
        os.kill(self.raylet, signal.SIGCONT)

    def _take_out(self, *, allow_graceful: bool) -> None:
        self._gone = True
        self._cluster.nodes.pop(self.name, None)
        self._cluster.ray.remove_node(self._node, allow_graceful=allow_graceful)


class RayCluster:
    """
    The nodes by name, with this process as their driver.

    The head has no CPU, so that nothing is placed on it accidentally. Use it from the main thread only: Ray's nodes set
    signal handlers.

    Costs, measured with Ray 2.60 on two cores: 5 s and 8 s of CPU to start its 16 processes, 1 s to stop, 4 % of a core
    while idle. An actor takes 0.5 s of CPU, 0.4 s of it for the worker's `import ray`. On a waiting worker it takes
    0.02 s. But Ray starts waiting workers only when a node starts (`enable_worker_prestart`), and starts no new ones
    when actors have taken them. Starting them in advance only moves the CPU time, which does not help on a machine that
    is busy with tests. So tests should start few actors, and share those that they do not damage. An actor with its own
    environment variables takes twice as long.

    Attributes:
        address: The address for `ray.init`.
        nodes: The current nodes, without the head.
        ray: Ray's own cluster object.
    """

    def __init__(self, folder: Path, detection: Mapping[str, int] = FAST_DETECTION) -> None:
        """
        Start the cluster and connect to it.

        Args:
            folder: Folder for Ray's session.
            detection: Ray's settings for detecting dead nodes. Default: fast ones for tests.
        """
        handler = signal.getsignal(signal.SIGTERM)
        self.nodes: dict[str, RayNode] = {}
        self._folder = str(folder)
        try:
            self.ray = Cluster(
                initialize_head=True,
                head_node_args={
                    "num_cpus": 0,
                    "node_name": "head",
                    "include_dashboard": False,
                    # These two are processes that import Ray. Tests need no autoscaler and no copied logs.
                    "no_monitor": True,
                    "include_log_monitor": False,
                    "object_store_memory": _OBJECT_STORE,
                    "_system_config": {**_MEASURES_NOTHING, **detection},
                },
            )
            self.address: str = self.ray.address
            self.add("node-a1", labels={"zone": "a"})
            self.add("node-a2", labels={"zone": "a"})
            self.add("node-b1", gpus=2, labels={"zone": "b", "tier": "gpu"})
            ray.init(address=self.address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        finally:
            signal.signal(signal.SIGTERM, handler)
        self._permanent = frozenset(self.nodes)
        self._open = True

    def add(  # noqa: PLR0913 - the properties of a node
        self,
        name: str,
        *,
        cpus: int = 32,
        gpus: int = 0,
        memory: int = 4 * 2**30,
        labels: dict[str, str] | None = None,
        called: str | None = None,
    ) -> RayNode:
        """
        Add a node, which takes more than 1 s. It is removed when the test ends.

        Args:
            name: A unique name.
            cpus: Number of CPUs that it claims to have.
            gpus: Number of GPUs that it claims to have.
            memory: Bytes that it claims to have.
            labels: Its labels.
            called: The name that Ray gets, which need not be unique. Default: *name*.
        """
        assert name not in self.nodes
        handler = signal.getsignal(signal.SIGTERM)
        try:
            node = self.ray.add_node(
                num_cpus=cpus,
                num_gpus=gpus,
                memory=memory,
                node_name=called or name,
                labels=labels or {},
                object_store_memory=_OBJECT_STORE,
            )
        finally:
            signal.signal(signal.SIGTERM, handler)
        self.nodes[name] = RayNode(self, name, node)
        return self.nodes[name]

    def tidy(self) -> None:
        """Remove the nodes that tests added."""
        for name in self.nodes.keys() - self._permanent:
            self.nodes[name].remove()

    def wait_until_dead(self, node: RayNode) -> None:
        """Wait until the head considers *node* dead."""
        deadline = time.monotonic() + _PATIENCE
        pause = threading.Event()  # Ray sends no notification
        while any(found["NodeID"] == node.id and found["Alive"] for found in ray.nodes()):
            assert time.monotonic() < deadline, f"{node.name} is still alive"
            pause.wait(0.02)

    def close(self) -> None:
        """End the cluster. Idempotent."""
        if not self._open:
            return
        self._open = False
        ray.shutdown()
        self.ray.shutdown()

    # -- for the leak guard ------------------------------------------------------------------------------------------

    def held(self) -> frozenset[str]:
        """Return every actor that lives or will live, and every busy worker."""
        return frozenset(self._actors()) | frozenset(self._workers()) if self._open else frozenset()

    def own(self, new: Resources) -> Resources:
        """
        Return Ray's threads, the descriptors of its connections, which come and go with workers, and its log files.

        Python created every socket of ours, so sockets of Ray's C++ code can be recognised. For epolls and events this
        is not known, but they are useless without a socket. Ray keeps some of all these after its shutdown.
        """
        made_by_python = set()
        if any(target.startswith("socket:") for _, target in new.files):  # else nobody needs it, and it takes long
            made_by_python = {found.fileno() for found in gc.get_objects() if isinstance(found, socket.socket)}
        return Resources(
            threads=frozenset(thread for thread in new.threads if thread.name in _THREADS),
            files=frozenset(
                (number, target)
                for number, target in new.files
                if (target.startswith("socket:") and number not in made_by_python)
                or target.startswith((*_RAYS_OWN_FILES, self._folder))
            ),
        )

    def _actors(self) -> Iterator[str]:
        for state in _LIVING:
            for id, actor in gcs_tables.actors(actor_state_name=state).items():
                if actor["ActorClassName"] in _DIRECTORIES:
                    continue
                name = f" {actor['Name']!r}" if actor["Name"] else ""
                yield f"actor {actor['ActorClassName']}{name} {id}, which was not killed"

    def _workers(self) -> Iterator[str]:
        for node in self.nodes.values():
            for pid, title in node.children.items():
                directory = any(f"{sign}{each}" in title for each in _DIRECTORIES for sign in ("ray::", ":"))
                if title.startswith("ray::") and not directory and not title.startswith(_IDLE):
                    actor, _, _ = title.partition(".")  # without the method that runs now
                    yield f"worker process {pid} on {node.name}: {actor}"


def title_of(pid: int) -> str:
    """Return the command line of a process, which shows what Ray's processes do. Empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""
