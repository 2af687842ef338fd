"""Runs replicas in this process, each with its own instance and workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.host.host import Host
from sage_plugins.values import Placed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import ControlOp, ReplicaEvents, Work
    from sage_plugins.values import Refused, ReplicaSpec

__all__ = ["LocalReplica", "LocalTarget"]


class LocalReplica:
    """
    A replica whose host is in this process. To send a call is to put it into the inbox of its workers.

    Control operations run in the caller's thread and need no slot.
    """

    node: str | None = None

    def __init__(self, spec: ReplicaSpec, host: Host) -> None:
        self.id = spec.id
        self.index = spec.index
        self._host = host
        self.slots: int = host.slots
        self.send: Callable[[Work], None] = host.put
        self.run_here: Callable[[Call], None] | None = host.run_here
        self.holds = host.holds

    def give_up(self, call: Call, outcome: int, spent: float) -> bool:  # noqa: ARG002 - the calling side counts it
        """Cancel the coroutine that answers *call*, if there is one. Return False."""
        self._host.cancel(call)
        return False

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:  # noqa: ARG002 - nothing here can be late
        """Answer in the caller's thread."""
        return self._host.control(op, arg)

    def begin_stop(self) -> None:
        """Cancel running calls, let the workers run the stop hooks, and return at once."""
        self._host.begin_stop()

    def stop(self, grace: float) -> int:
        """Run the stop hooks, and end the workers. Return how many calls still run after *grace* seconds."""
        return self._host.stop(grace)


class LocalTarget:
    """Places every replica in this process."""

    def place(self, specs: Sequence[ReplicaSpec]) -> Sequence[Placed | Refused]:
        """Place all replicas in this process."""
        return [Placed(None, "target 'local' runs in this process") for _ in specs]

    def start(self, spec: ReplicaSpec, at: Placed, events: ReplicaEvents, clock: Clock) -> LocalReplica:
        """Start the workers of a new host. The first one builds the instance."""
        host = Host(spec, events, clock, node=at.node)
        host.start()
        return LocalReplica(spec, host)

    def close(self) -> None:
        """Do nothing: the target holds no resources."""
