"""Replicas in this process: each an instance of its own, with workers of its own."""

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
    A replica whose host is in this process, so that sending a call is putting it into the inbox of its workers.

    Control operations run in the asking thread: they wait for no slot.
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
        """Stop the coroutine that answers *call*, if one does."""
        self._host.cancel(call)
        return False

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:  # noqa: ARG002 - nothing here can be late
        """Answer in the calling thread."""
        return self._host.control(op, arg)

    def begin_stop(self) -> None:
        """End the calls that run, and have the workers run the stop hooks; returns at once."""
        self._host.begin_stop()

    def stop(self, grace: float) -> int:
        """Run the stop hooks and end the workers; returns how many calls still run after *grace* seconds."""
        return self._host.stop(grace)


class LocalTarget:
    """Places every replica in this process."""

    def place(self, specs: Sequence[ReplicaSpec]) -> Sequence[Placed | Refused]:
        """Here, all of them."""
        return [Placed(None, "target 'local' runs in this process") for _ in specs]

    def start(self, spec: ReplicaSpec, at: Placed, events: ReplicaEvents, clock: Clock) -> LocalReplica:
        """Start the workers of a new host; the first of them builds the instance."""
        host = Host(spec, events, clock, node=at.node)
        host.start()
        return LocalReplica(spec, host)

    def close(self) -> None:
        """There is nothing to let go of."""
