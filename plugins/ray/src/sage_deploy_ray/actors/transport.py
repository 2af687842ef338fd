"""The transport from a caller to the actor that runs a replica."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from sage_deploy_ray.actors import wire
from sage_deploy_ray.actors.carriers import CallerCarrier
from sage_deploy_ray.actors.references import RAY
from sage_deploy_ray.actors.requests import request
from sage_deploy_ray.cluster.certificates import certificates_here
from sage_deploy_ray.cluster.connection import check_not_shut_down
from sage_deploy_ray.cluster.death_reasons import why_gone
from sage_deploy_remote.link.rpc_transport import RpcExchange
from sage_deploy_remote.link.sockets.transport import SocketTransport
from sage_deploy_remote.rpc.listeners import this_machine
from sage_deploy_remote.shipping import versions
from sage_deploy_remote.shipping.specs import pack_spec
from sage_plugins.errors import DeployError, ReplicaDiedError, text_of
from sage_plugins.threads import CALLBACKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_deploy_ray.actors.wire import Wire
    from sage_deploy_ray.options import RayOptions
    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.link.protocol import Frame, Response
    from sage_deploy_remote.link.rpc_transport import Answer
    from sage_deploy_remote.link.transport import Exchange
    from sage_deploy_remote.rpc.address import Address
    from sage_plugins.values import ReplicaSpec

__all__ = ["RayTransport"]


#: Timeout, in seconds, for the actor to say where it listens.
_LISTENER_TIMEOUT_S: Final = 3.0

#: When a connection ends, Ray gets this many seconds to report why the actor ended.
_REASON_TIMEOUT_S: Final = 0.01


class RayTransport(SocketTransport):
    """
    Transport to one actor, which is its `address`. References to objects in Ray's store travel with the calls.

    Ray starts, watches and ends the actor, and carries the requests that are no calls. Calls go over a socket if one
    can be opened, and otherwise as Ray tasks.
    """

    substrate = RAY

    def __init__(  # noqa: PLR0913, PLR0917 - a transport needs them all
        self,
        make_actor: Callable[[], Any],
        node: str | None,
        options: RayOptions,
        dispatcher: Dispatcher,
        on_gone: Callable[[bool], None],
        pending_reason: Callable[[Any, float], str] | None = None,
    ) -> None:
        """
        Prepare the transport. Nothing happens before `start`.

        Args:
            make_actor: Returns the actor's handle, and starts the actor if it does not run.
            node: The node's name, for messages about the replica.
            options: Decide how calls are sent.
            dispatcher: Provides the threads that read responses.
            on_gone: Called when the actor is gone. Its argument is true if the actor is only unreachable.
            pending_reason: Says what the actor waits for before its process runs. Its second argument is a timeout in
                seconds. None for an actor that already runs.
        """
        super().__init__(dispatcher)
        self._make_actor = make_actor
        self._node = node
        self._options = options
        self._listener: Address | None = None
        self._reason_known = threading.Event()  # set when Ray has said why the actor is gone
        self._on_gone = on_gone
        self._pending_reason = pending_reason
        self._id = ""
        self._killed = False

    def bind_actor(self, id: str) -> None:
        """Get the actor of replica *id* from `make_actor`, which may start it."""
        self._id = id
        self._actor = self.address = self._make_actor()
        self._exchange = self._actor.exchange.remote

    def begin(self, spec: ReplicaSpec) -> Answer:
        """As `RpcTransport.begin`."""
        self.bind_actor(spec.id)
        return self.request("start", versions.own_version(), pack_spec(spec, RAY), self._node)

    def started(self, slots: int | None, error: Any) -> None:
        """As `RpcTransport.started`. *slots* is None if the actor speaks another protocol."""
        if slots is None:
            who = "the replica's process" + (f" on {self._node}" if self._node else "")
            msg = f"replica {self._id} was not started: {versions.difference(who, error)}"
            self.receiver.failed(DeployError(msg, replica=self._id))
            return
        if not slots:
            super().started(slots, error)
            return
        self.watch(self.request("wait_ended"))  # notices the actor's end even while nobody calls it
        ready, receiver = super().started, self.receiver
        self.choose_connection(lambda: ready(slots, error), receiver.failed)

    def choose_connection(self, ready: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        """
        Decide how calls are sent. A separate thread tries the socket.

        Args:
            ready: Called when calls can be sent.
            failed: Called with the error instead, if the options require a socket and none can be opened.
        """
        if self._options.calls == "tasks":
            ready()
        else:
            CALLBACKS.run(partial(self._connect, ready, failed))

    def _connect(self, ready: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        try:
            self._listener = self.request("listener", this_machine()).result(_LISTENER_TIMEOUT_S)
            end = self._listener.connect_socket(certificates_here(self._options.tls))
        except RayActorError:  # the actor is gone; its watcher reports that
            ready()
        except Exception as error:  # noqa: BLE001 - nobody listens, or the network blocks it
            cause = error.cause if isinstance(error, RayTaskError) else error  # without the remote traceback
            why = f"there is no connection to {self._describe_listener()}: {text_of(cause)}"
            if self._options.calls == "socket":
                failed(DeployError(f"replica {self._id}: {why}, and options.ray.calls wants one", replica=self._id))
                return
            self.receiver.remark(f"its calls are tasks of Ray, which are slower: {why}")
            ready()
        else:
            self.use_connection(end, self._id, CallerCarrier(self), exact=self._listener.exact)
            ready()

    def _describe_listener(self) -> str:
        listener = None if self._listener is None else self._listener.place
        place = (
            "the replica" if listener is None else listener if isinstance(listener, str) else "{}:{}".format(*listener)
        )
        return f"{place} on {self._node}" if self._node else place

    def progress(self, timeout: float) -> str:
        """As `Transport.progress`."""
        return "" if self._pending_reason is None else self._pending_reason(self._actor, timeout)

    def lost(self, error: BaseException) -> None:
        """As `RpcTransport.lost`."""
        super().lost(error)
        self._reason_known.set()

    def connection_ended(self, error: BaseException) -> None:
        """As `SocketTransport.connection_ended`. Waits a moment first, because Ray knows the reason better."""
        if self._end_expected:
            return
        self._reason_known.wait(_REASON_TIMEOUT_S)
        super().connection_ended(error)
        self.end_after_disconnect()

    def end_after_disconnect(self) -> None:
        """End the actor after its connection has ended: nobody can call it, and its calls have been given up."""
        self.end()

    def death(self, error: BaseException) -> BaseException:
        """Return the replica's death as an error, with the reason in Ray's *error*."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        self._on_gone(isinstance(cause, ActorUnavailableError))
        if isinstance(cause, (EOFError, OSError)):
            why = "its process, or its node, has ended the connection"
        else:
            why = why_gone(cause)
        return ReplicaDiedError(f"replica {self._id} is gone: {why}", replica=self._id, node=self._node)

    def request(self, method: str, *arguments: Any) -> Answer:
        """As `RpcTransport.request`."""
        return request(lambda: getattr(self._actor, method).remote(*arguments))

    def exchange(self, frame: Frame) -> Exchange:
        """As `Transport.exchange`."""
        if self.pushes:
            return super().exchange(frame)
        return RpcExchange(request(lambda: self._exchange(wire.write_frame(frame))), self)

    def read(self, response: Wire) -> Response:
        """As `RpcTransport.read`."""
        return wire.read_response(response)

    def end(self) -> None:
        """As `RpcTransport.end`."""
        if not self._killed:  # the end of the connection calls this method again
            self._killed = True
            with suppress(Exception):  # fails if the program has shut Ray down
                check_not_shut_down()
                ray.kill(self._actor, no_restart=True)
        self.end_calls()
        if self._listener is not None:
            self._listener.remove()  # the actor may have been killed before it removed it
        self._on_gone(False)  # noqa: FBT003 - the parameter's name says it
