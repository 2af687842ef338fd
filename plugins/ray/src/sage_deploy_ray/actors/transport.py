"""The way from a caller's side to the actor in which its replica runs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorUnavailableError, RayTaskError

from sage_deploy_ray.actors import wire
from sage_deploy_ray.actors.references import RAY
from sage_deploy_ray.actors.requests import request
from sage_deploy_ray.cluster.connection import check_not_shut_down
from sage_deploy_ray.cluster.death_reasons import why_gone
from sage_deploy_remote.link.rpc_transport import RpcExchange, RpcTransport
from sage_deploy_remote.shipping import versions
from sage_deploy_remote.shipping.specs import pack_spec
from sage_plugins.errors import DeployError, ReplicaDiedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_deploy_ray.actors.wire import Wire
    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.link.protocol import Frame, Response
    from sage_deploy_remote.link.rpc_transport import Answer
    from sage_plugins.values import ReplicaSpec

__all__ = ["RayTransport"]


class RayTransport(RpcTransport):
    """The way to one actor, which is its `address`. References to objects in Ray's store travel with the calls."""

    substrate = RAY

    def __init__(
        self,
        make_actor: Callable[[], Any],
        node: str | None,
        dispatcher: Dispatcher,
        on_gone: Callable[[bool], None],
        waits_for: Callable[[Any, float], str] | None = None,
    ) -> None:
        """
        Prepare the way; nothing happens before `start`.

        Args:
            make_actor: Starts the actor and gives its handle.
            node: Name of the node, for the replica's own messages.
            dispatcher: Has the threads that read what arrives.
            on_gone: Told when the actor is gone, and whether that is only because it cannot be reached.
            waits_for: Gives what the actor waits for before its process runs, in so many seconds; None if it runs.
        """
        super().__init__(dispatcher)
        self._make_actor = make_actor
        self._node = node
        self._on_gone = on_gone
        self._waits_for = waits_for
        self._id = ""

    def reach(self, id: str) -> None:
        """Have the actor of the replica *id*."""
        self._id = id
        self._actor = self.address = self._make_actor()
        self._exchange = self._actor.exchange.remote

    def begin(self, spec: ReplicaSpec) -> Answer:
        """As `RpcTransport.begin`."""
        self.reach(spec.id)
        return self.request("start", versions.spoken(), pack_spec(spec, RAY), self._node)

    def started(self, slots: int | None, error: Any) -> None:
        """As `RpcTransport.started`; no slots are those of an actor that speaks another protocol."""
        if slots is None:
            who = "the replica's process" + (f" on {self._node}" if self._node else "")
            msg = f"replica {self._id} was not started: {versions.difference(who, error)}"
            self.receiver.failed(DeployError(msg, replica=self._id))
            return
        if slots:  # its end is noticed also when nobody calls it
            self.watch(self.request("wait_ended"))
        super().started(slots, error)

    def progress(self, timeout: float) -> str:
        """As `Transport.progress`."""
        return "" if self._waits_for is None else self._waits_for(self._actor, timeout)

    def death(self, error: BaseException) -> BaseException:
        """What *error*, of Ray, says about the replica."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        self._on_gone(isinstance(cause, ActorUnavailableError))
        return ReplicaDiedError(f"replica {self._id} is gone: {why_gone(cause)}", replica=self._id, node=self._node)

    def request(self, method: str, *arguments: Any) -> Answer:
        """As `RpcTransport.request`."""
        return request(lambda: getattr(self._actor, method).remote(*arguments))

    def exchange(self, frame: Frame) -> RpcExchange:
        """As `Transport.exchange`."""
        return RpcExchange(request(lambda: self._exchange(wire.write_frame(frame))), self)

    def read(self, response: Wire) -> Response:
        """As `RpcTransport.read`."""
        return wire.read_response(response)

    def end(self) -> None:
        """As `RpcTransport.end`."""
        with suppress(Exception):  # of a Ray that the program has shut down nothing is left
            check_not_shut_down()
            ray.kill(self._actor, no_restart=True)
        self._on_gone(False)  # noqa: FBT003 - see the parameter
