"""
The target `example_plugin`: runs replicas in this process, under a node name of your choice.

Replicas in other processes need a transport: see "A target" in the guide to writing plugins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from sage_plugins import hookimpl
from sage_plugins.host.host import Host
from sage_plugins.values import Placed, Registration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import ControlOp, ReplicaEvents, Work
    from sage_plugins.values import Refused, ReplicaSpec


@attrs.frozen
class ExamplePluginOptions:
    """
    Options of `example_plugin`.

    Attributes:
        node: The node name that a status shows.
    """

    node: str = attrs.field(default="here", validator=attrs.validators.min_len(1))


class ExamplePluginReplica:
    """One replica. Its `Host` builds the instance and runs the calls."""

    def __init__(self, spec: ReplicaSpec, host: Host, node: str | None) -> None:
        self.id = spec.id
        self.index = spec.index
        self.node = node
        self._host = host
        self.slots: int = host.slots
        self.send: Callable[[Work], None] = host.put
        self.run_here: Callable[[Call], None] | None = host.run_here
        self.holds = host.holds

    def give_up(self, call: Call, _outcome: int, _spent: float) -> bool:
        """Cancel the coroutine that answers *call*, if there is one. Return False: the calling side counts the call."""
        self._host.cancel(call)
        return False

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:  # noqa: ARG002 - nothing here waits
        """Answer a question about the replica."""
        return self._host.control(op, arg)

    def begin_stop(self) -> None:
        """Begin to stop, and return at once."""
        self._host.begin_stop()

    def stop(self, grace: float) -> int:
        """Run the stop hooks, and end the workers. Return how many calls still run after *grace* seconds."""
        return self._host.stop(grace)


class ExamplePlugin:
    """Places and starts replicas."""

    def __init__(self, options: ExamplePluginOptions) -> None:
        self._node = options.node

    def place(self, specs: Sequence[ReplicaSpec]) -> Sequence[Placed | Refused]:
        """Say where each replica would run, or why it cannot run. Start nothing."""
        return [Placed(self._node, "target 'example_plugin' runs in this process") for _ in specs]

    def start(self, spec: ReplicaSpec, at: Placed, events: ReplicaEvents, clock: Clock) -> ExamplePluginReplica:
        """Start one replica. Return before it is ready."""
        host = Host(spec, events, clock, node=at.node)
        host.start()
        return ExamplePluginReplica(spec, host, at.node)

    def close(self) -> None:
        """Free what the target holds. May be called twice."""


@hookimpl
def sage_register_targets() -> list[Registration]:
    """Offer the target."""
    return [
        Registration(
            "example_plugin",
            ExamplePlugin,
            "Replicas in this process, under a node name of your choice",
            options=ExamplePluginOptions,
            capabilities=frozenset({"in_process"}),
        )
    ]
