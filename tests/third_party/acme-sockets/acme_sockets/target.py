"""The target `sockets`, which starts replicas as child processes on this machine."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from acme_sockets.directory import SocketDirectory
from acme_sockets.transport import SocketTransport
from sage_deploy_remote.link.dispatcher import Dispatcher
from sage_deploy_remote.link.replica import RemoteReplica
from sage_deploy_remote.reach.driver_directory import leave
from sage_deploy_remote.reach.target import DirectoryTarget
from sage_deploy_remote.shipping.specs import problems
from sage_plugins.values import Placed, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import ReplicaEvents
    from sage_plugins.values import ReplicaSpec


class SocketTarget(DirectoryTarget):
    """Starts a child process for each replica of a service."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dispatcher: Dispatcher | None = None

    def place(self, specs: Sequence[ReplicaSpec]) -> Sequence[Placed | Refused]:
        """Refuse a service that cannot be sent to another process, before anything starts."""
        wrong = problems(specs[0]) if specs else []  # all specs are of the same service
        if wrong:
            reason = "; ".join(f"{problem.message} ({problem.fix})" for problem in wrong)
            return [Refused(reason, rule="E703")] * len(specs)
        return [Placed(None, "a child process of this one")] * len(specs)

    def start(self, spec: ReplicaSpec, at: Placed, events: ReplicaEvents, clock: Clock) -> RemoteReplica:
        """Start a process; `RemoteReplica` does everything else."""
        with self._lock:
            if self._dispatcher is None:
                self._dispatcher = Dispatcher(spec.service)
            transport = SocketTransport(self._dispatcher)
        return RemoteReplica(spec, at.node, events, clock, transport)

    def directory(self, environment: str) -> SocketDirectory:
        """Return the directory in which other processes find the services of that environment."""
        return SocketDirectory(environment, user=self)

    def close(self) -> None:
        """End the thread that the service's replicas share, and the directory after the last service."""
        with self._lock:
            dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            dispatcher.close()
        leave(self)
