"""Frames as Ray actor tasks: the way from a caller's side to the actor in which its replica runs."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError, RayTaskError

from sage_deploy_ray.actors import wire
from sage_deploy_ray.actors.references import RAY
from sage_deploy_ray.cluster.connection import check_not_shut_down
from sage_deploy_ray.cluster.death_reasons import why_gone
from sage_deploy_remote.link.shield import Shield
from sage_deploy_remote.link.transport import Stopped
from sage_deploy_remote.payloads.errors import unpack_error
from sage_deploy_remote.payloads.payload import unpack
from sage_deploy_remote.shipping import versions
from sage_deploy_remote.shipping.specs import pack_spec
from sage_plugins.errors import DeployError, ReplicaDiedError
from sage_plugins.interfaces import ControlOp

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.link.protocol import Frame, Notice
    from sage_deploy_remote.link.transport import Exchange, Receiver
    from sage_plugins.call.call import Call
    from sage_plugins.values import ReplicaSpec

__all__ = ["RayTransport"]

#: Seconds beyond its own grace that a replica gets to say that it has stopped.
_STOP_MARGIN_S: Final = 1.0


class _RayExchange:
    """One frame as a task of the actor."""

    def __init__(self, ref: Any, transport: RayTransport) -> None:
        self._ref = ref
        self._transport = transport

    def wait(self, call: Call, seconds: float | None) -> None:
        """As `Exchange.wait`."""
        until = None if seconds is None else time.monotonic() + seconds
        read = False
        try:
            while not read:
                # Ray ends a wait for KeyboardInterrupt only; with any other exception it waits on, and then fails.
                with Shield(waits=True) as shield:
                    self._read_here(call, until, shield)
                    read = True
        except BaseException:  # a signal handler's, whose business the replica is not
            if not read:
                self.leave()
            raise

    def _read_here(self, call: Call, until: float | None, shield: Shield) -> None:
        """Wait for the response; what is done then is done to its end."""
        receiver = self._transport.receiver
        try:
            answer = ray.get(self._ref, timeout=None if until is None else max(0.0, until - time.monotonic()))
            shield.waited()
            response = wire.read_response(answer)
        except GetTimeoutError:
            shield.waited()
            self.leave()
        except RayError as error:  # the frame will not be answered
            shield.waited()
            receiver.lost(self._transport.death(error))
        else:
            receiver.arrived(response, call)

    def leave(self) -> None:
        """As `Exchange.leave`."""
        try:
            self._ref.future().add_done_callback(self._done)
        except Exception as error:  # noqa: BLE001 - Ray was shut down in this process
            _Undelivered(self._transport, error).leave()

    def _done(self, future: Any) -> None:
        self._transport.soon(lambda: self._read(future))

    def _read(self, future: Any) -> None:
        receiver = self._transport.receiver
        try:
            response = wire.read_response(future.result())
        except BaseException as error:  # noqa: BLE001 - as in `wait`
            receiver.lost(self._transport.death(error))
        else:
            receiver.arrived(response)


class _Undelivered:
    """An exchange whose frame could not be sent."""

    def __init__(self, transport: RayTransport, error: BaseException) -> None:
        self._transport = transport
        self._error = error

    def wait(self, call: Call, seconds: float | None) -> None:  # noqa: ARG002 - there is nothing to wait for
        """As `Exchange.wait`."""
        self._transport.receiver.lost(self._transport.death(self._error))

    def leave(self) -> None:
        """As `Exchange.leave`."""
        self._transport.soon(lambda: self._transport.receiver.lost(self._transport.death(self._error)))


class RayTransport:
    """
    The way to one actor.

    Attributes:
        receiver: Whom what arrives is for.
        address: The actor.
        substrate: Ray, which carries references to objects in its store.
    """

    receiver: Receiver
    address: Any
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
        self._on_gone = on_gone
        self._waits_for = waits_for
        self._make_actor = make_actor
        self._node = node
        self._dispatcher = dispatcher
        self.soon = dispatcher.soon
        self._stopping: Any = None
        self._id = ""

    def start(self, spec: ReplicaSpec, receiver: Receiver) -> None:
        """As `Transport.start`."""
        self._reach(spec.id, receiver)
        started = self._begin(spec)
        started.future().add_done_callback(lambda future: self.soon(lambda: self._started(future)))

    def _begin(self, spec: ReplicaSpec) -> Any:
        """Have the actor build the replica; gives its answer, on its way."""
        return self._actor.start.remote(versions.spoken(), pack_spec(spec, RAY), self._node)

    def _reach(self, id: str, receiver: Receiver) -> None:
        """Have the actor, and hand what comes from the replica *id* to *receiver*."""
        self.receiver = receiver
        self._id = id
        self._actor = self.address = self._make_actor()
        self._exchange = self._actor.exchange.remote

    def _started(self, future: Any) -> None:
        try:
            slots, error = future.result()
        except BaseException as raised:  # noqa: BLE001 - whatever Ray says, it will not start
            self.receiver.lost(self.death(raised))
            return
        if slots is None:
            who = "the replica's process" + (f" on {self._node}" if self._node else "")
            msg = f"replica {self._id} was not started: {versions.difference(who, error)}"
            self.receiver.failed(DeployError(msg, replica=self._id))
            return
        if error is not None:
            self.receiver.failed(unpack_error(error))
            return
        if not slots:  # it was stopped before it was ready
            return
        # Its end is noticed also when nobody calls it.
        ended = self._actor.wait_ended.remote()
        ended.future().add_done_callback(lambda future: self.soon(lambda: self._ended(future)))
        self.receiver.started(slots)

    def progress(self, timeout: float) -> str:
        """As `Transport.progress`."""
        return "" if self._waits_for is None else self._waits_for(self._actor, timeout)

    def _ended(self, future: Any) -> None:
        error = future.exception()
        if error is not None:
            self.receiver.lost(self.death(error))

    def death(self, error: BaseException) -> BaseException:
        """What *error*, of Ray, says about the replica."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        self._on_gone(isinstance(cause, ActorUnavailableError))
        return ReplicaDiedError(f"replica {self._id} is gone: {why_gone(cause)}", replica=self._id, node=self._node)

    def exchange(self, frame: Frame) -> Exchange:
        """As `Transport.exchange`."""
        try:
            check_not_shut_down()
            return _RayExchange(self._exchange(wire.write_frame(frame)), self)
        except Exception as error:  # noqa: BLE001 - whatever Ray says, it did not leave
            return _Undelivered(self, error)

    def control(self, op: ControlOp, arg: Any, notices: Collection[tuple[str, Notice]], timeout: float) -> Any:
        """As `Transport.control`; raises TimeoutError when there was no answer in *timeout* seconds."""
        check_not_shut_down()
        answer, error = ray.get(self._actor.control.remote(op, arg, tuple(notices)), timeout=timeout)
        if error is not None:
            raise unpack_error(error)
        return unpack(answer) if op is ControlOp.GET else answer

    def vacate(self) -> Callable[[float], None]:
        """As `Transport.vacate`."""
        vacated: Any = None
        with suppress(Exception):  # it is gone
            check_not_shut_down()
            vacated = self._actor.vacate.remote()

        def wait(limit: float) -> None:
            with suppress(Exception):  # its time is over, or it is gone: it is stopped in any case
                ray.get(vacated, timeout=limit)

        return wait

    def ask_to_stop(self) -> None:
        """As `Transport.ask_to_stop`."""
        if self._stopping is None:
            with suppress(Exception):  # it ended with the Ray of this process, which the program has shut down
                check_not_shut_down()
                self._stopping = self._actor.stop.remote(0.0)

    def stop(self, grace: float) -> Stopped:
        """As `Transport.stop`."""
        self.ask_to_stop()
        try:
            check_not_shut_down()
            return Stopped(*ray.get(self._actor.stop.remote(grace), timeout=grace + _STOP_MARGIN_S))
        except Exception:  # noqa: BLE001 - it is gone, or stuck: it is ended in any case
            return Stopped(0, None)
        finally:
            with suppress(Exception):  # of a Ray that the program has shut down nothing is left
                check_not_shut_down()
                ray.kill(self._actor, no_restart=True)
            self._on_gone(False)  # noqa: FBT003 - see the parameter
