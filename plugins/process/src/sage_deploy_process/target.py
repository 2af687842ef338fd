"""The target `process`: places replicas on this machine, and starts a child process for each one."""

from __future__ import annotations

import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Final

from sage_deploy_process import machine
from sage_deploy_process.allocations import ALLOCATIONS
from sage_deploy_remote.placement.decision import Running, Spot, place
from sage_deploy_remote.placement.selection import AnyNode
from sage_deploy_remote.reach.target import DirectoryTarget
from sage_deploy_remote.shipping.specs import problems
from sage_plugins.interfaces import NodeView
from sage_plugins.values import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_deploy_process.directory import ProcessDirectory
    from sage_deploy_process.options import ProcessOptions
    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.link.replica import RemoteReplica
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import ReplicaEvents
    from sage_plugins.values import Placed, ReplicaSpec

__all__ = ["ProcessTarget"]

_MIB: Final = 1024 * 1024


class ProcessTarget(DirectoryTarget):
    """Starts a child process for each replica of a service. Thread-safe."""

    def __init__(self, options: ProcessOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._dispatcher: Dispatcher | None = None  # this and the next line: guarded by _lock
        self._replicas: list[RemoteReplica] = []  # gone ones are dropped

    def place(self, specs: Sequence[ReplicaSpec]) -> Sequence[Placed | Refused]:
        """As `Target.place`. All replicas go to this machine, as long as their reservations fit."""
        if not specs:
            return []
        wrong = problems(specs[0])  # all specs are of one service
        if wrong:
            reason = "; ".join(f"{problem.message} ({problem.fix})" for problem in wrong)
            return [Refused(reason, rule="E703")] * len(specs)
        with self._lock:
            self._replicas = [each for each in self._replicas if not each.gone]
            running = [Running(machine.NAME, each.index) for each in self._replicas]
        found = place(specs, [ALLOCATIONS.node()], AnyNode(), running, cores=0.0)
        return [
            each.placed._replace(reason="a child process of this one") if isinstance(each, Spot) else each
            for each in found
        ]

    def nodes(self) -> list[NodeView]:
        """As `ListingTarget.nodes`: this machine, minus what the services of this process reserve."""
        node = ALLOCATIONS.node()
        free, total = node.free, node.total
        cpu, gpu, memory = (free.cpu, total.cpu), (free.gpu, total.gpu), (free.memory, total.memory)
        return [NodeView(node.name, cpu, gpu, memory, node.labels)]

    def start(self, spec: ReplicaSpec, at: Placed, events: ReplicaEvents, clock: Clock) -> RemoteReplica:
        """As `Target.start`. Raises DeployError if the operating system refuses another process."""
        from sage_deploy_process.lifeline import Settings  # planning needs none of these imports
        from sage_deploy_process.transport import ProcessTransport
        from sage_deploy_remote.link.dispatcher import Dispatcher
        from sage_deploy_remote.link.replica import RemoteReplica

        allocation = ALLOCATIONS.take(spec, self._options)
        path = [each for each in sys.path if isinstance(each, str)]  # imports ignore all others, such as `Path` objects
        settings = Settings(path, list(allocation.cores), (spec.config.memory_mb or 0) * _MIB)
        with self._lock:
            if self._dispatcher is None:
                self._dispatcher = Dispatcher(spec.service)
            transport = ProcessTransport(
                self._dispatcher, settings, allocation.env, partial(ALLOCATIONS.release, allocation)
            )
        replica = RemoteReplica(spec, at.node, events, clock, transport)
        with self._lock:
            self._replicas.append(replica)
        return replica

    def directory(self, environment: str) -> ProcessDirectory:
        """As `DirectoryTarget.directory`."""
        from sage_deploy_process.directory import ProcessDirectory

        return ProcessDirectory(environment, user=self)

    def close(self) -> None:
        """As `Target.close`."""
        with self._lock:
            dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is None:
            return
        from sage_deploy_remote.reach.driver_directory import leave

        dispatcher.close()
        leave(self)
