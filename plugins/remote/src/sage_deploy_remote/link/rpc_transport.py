"""A transport whose substrate calls methods of the replica's process and gives a future for each."""

from __future__ import annotations

import time
import weakref
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from sage_deploy_remote.link.deferred_signals import DeferredSignals
from sage_deploy_remote.link.transport import Stopped
from sage_deploy_remote.payloads.errors import unpack_error
from sage_deploy_remote.payloads.payload import unpack
from sage_deploy_remote.payloads.substrate import PLAIN
from sage_plugins.interfaces import ControlOp

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.link.protocol import Frame, Notice, Response
    from sage_deploy_remote.link.transport import Exchange, Receiver
    from sage_deploy_remote.payloads.substrate import Substrate
    from sage_plugins.call.call import Call
    from sage_plugins.values import ReplicaSpec

__all__ = ["Answer", "RpcExchange", "RpcTransport", "failed"]

#: Seconds beyond its own grace that a replica gets to say that it has stopped.
_STOP_MARGIN_S: Final = 1.0


class Answer(Protocol):
    """What a method of another process will return or raise; a `concurrent.futures.Future` is one."""

    def result(self, timeout: float | None = None) -> Any:
        """Wait for it, at most *timeout* seconds; then raise TimeoutError."""

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as `result` does; gives what that would raise, or None. What this raises is not the method's."""

    def add_done_callback(self, fn: Callable[[Any], Any], /) -> object:
        """Call *fn* with something that has its `result`, in any thread; *fn* must not block."""


def failed(error: BaseException) -> Future[Any]:
    """The answer to a request that could not be sent."""
    answer: Future[Any] = Future()
    answer.set_exception(error)
    return answer


class RpcExchange:
    """The `Exchange` of a frame that was sent by a request."""

    def __init__(self, answer: Answer, transport: RpcTransport) -> None:
        """
        Wait for nothing yet.

        Args:
            answer: Will be the response, in a form that the transport's `read` knows.
            transport: Has sent the frame.
        """
        self._answer = answer
        self._transport = transport

    def wait(self, call: Call, seconds: float | None) -> None:
        """As `Exchange.wait`."""
        until = None if seconds is None else time.monotonic() + seconds
        read = False
        try:
            while not read:
                # A wait ends well for KeyboardInterrupt only: some substrates wait on for any other exception.
                with DeferredSignals(waits=True) as signals:
                    self._read_here(call, until, signals)
                    read = True
        except BaseException:  # a signal handler's, whose business the replica is not
            if not read:
                self.leave()
            raise

    def _read_here(self, call: Call, until: float | None, signals: DeferredSignals) -> None:
        """Wait for the response; what is done then is done to its end."""
        transport = self._transport
        try:
            error = self._answer.exception(None if until is None else max(0.0, until - time.monotonic()))
        except TimeoutError:
            signals.waited()
            self.leave()
            return
        signals.waited()
        if error is None:
            transport.receiver.arrived(transport.read(self._answer.result()), call)
        else:  # whatever the substrate says, the frame will not be answered
            transport.lost(error)

    def leave(self) -> None:
        """As `Exchange.leave`."""
        self._answer.add_done_callback(lambda done: self._transport.soon(lambda: self._arrived(done)))

    def _arrived(self, done: Answer) -> None:
        transport = self._transport
        try:
            response = transport.read(done.result())
        except BaseException as error:  # noqa: BLE001 - as in `wait`
            transport.lost(error)
        else:
            transport.receiver.arrived(response)


class RpcTransport:
    """
    A base for transports: a subclass brings `begin`, `request`, `end` and, for errors of its own, `death`.

    What is requested are the methods of the `serving.endpoint.ReplicaEndpoint` in the replica's process.

    Attributes:
        receiver: Whom what arrives is for.
        address: As `Transport.address`.
        substrate: As `Transport.substrate`.
        pushes: As `Transport.pushes`.
        exact: As `Transport.exact`.
        routes: As `Transport.routes`.
    """

    receiver: Receiver
    address: Any = None
    substrate: Substrate = PLAIN
    pushes = False
    exact = False
    routes = False

    def __init__(self, dispatcher: Dispatcher) -> None:
        """Prepare; *dispatcher* has the threads that read what arrives."""
        self.soon = dispatcher.soon
        self._ends = False  # whether its process is ended from here, which is no loss

    # -- what a subclass brings --------------------------------------------------------------------------------------

    def begin(self, spec: ReplicaSpec) -> Answer:
        """Start the process; gives the answer of its `start`."""
        raise NotImplementedError

    def request(self, method: str, *arguments: Any) -> Answer:
        """Call a method of the endpoint. Never blocks, and never raises: see `failed`."""
        raise NotImplementedError

    def end(self) -> None:
        """End the process, whatever it does. Never raises."""
        raise NotImplementedError

    def death(self, error: BaseException) -> BaseException:
        """What callers get when a request has failed with *error*: the process is gone, or as good as that."""
        return error

    def read(self, response: Any) -> Response:
        """The response that `exchange` of the endpoint gave."""
        found: Response = response
        return found

    # -- its life ----------------------------------------------------------------------------------------------------

    def start(self, spec: ReplicaSpec, receiver: Receiver) -> None:
        """As `Transport.start`."""
        self.receiver = receiver
        self.begin(spec).add_done_callback(lambda done: self.soon(lambda: self._started(done)))

    def _started(self, done: Answer) -> None:
        try:
            slots, error = done.result()
        except BaseException as raised:  # noqa: BLE001 - whatever the substrate says, the replica will not start
            self.lost(raised)
        else:
            self.started(slots, error)

    def started(self, slots: int, error: Any) -> None:
        """The endpoint's `start` has given this."""
        if error is not None:
            self.receiver.failed(unpack_error(error))
        elif slots:  # else it was stopped before it was ready
            self.receiver.started(slots)

    def watch(self, ended: Answer) -> None:
        """Tell that the process is gone when *ended* fails. A transport that nobody uses any more is not kept."""
        here = weakref.ref(self)
        ended.add_done_callback(lambda done: _look(here, done))

    def _ended(self, done: Answer) -> None:
        try:
            done.result()
        except BaseException as error:  # noqa: BLE001 - whatever the substrate says, it has ended
            self.lost(error)

    def lost(self, error: BaseException) -> None:
        """The process has ended, or cannot be reached: tell so, unless it was stopped; *error* is of the substrate."""
        if not self._ends:
            self.receiver.lost(self.death(error))

    def progress(self, timeout: float) -> str:  # noqa: ARG002 - as the protocol has it
        """As `Transport.progress`: a process starts at once."""
        return ""

    # -- what is asked of it -----------------------------------------------------------------------------------------

    def exchange(self, frame: Frame) -> Exchange:
        """As `Transport.exchange`."""
        return RpcExchange(self.request("exchange", frame), self)

    def control(self, op: ControlOp, arg: Any, notices: Collection[tuple[str, Notice]], timeout: float) -> Any:
        """As `Transport.control`; raises TimeoutError when there was no answer in *timeout* seconds."""
        answer, error = self.request("control", op, arg, tuple(notices)).result(timeout)
        if error is not None:
            raise unpack_error(error)
        return unpack(answer) if op is ControlOp.GET else answer

    def vacate(self) -> Callable[[float], None]:
        """As `Transport.vacate`."""
        vacated = self.request("vacate")

        def wait(limit: float) -> None:
            with suppress(Exception):  # its time is over, or it is gone: it is stopped in any case
                vacated.result(limit)

        return wait

    def leave(self) -> None:
        """As `Transport.leave`."""
        self._ends = True

    def kill(self) -> None:
        """As `Transport.kill`."""
        self.end()

    def ask_to_stop(self) -> None:
        """As `Transport.ask_to_stop`."""
        self.request("stop", 0.0)

    def stop(self, grace: float) -> Stopped:
        """As `Transport.stop`."""
        try:
            return Stopped(*self.request("stop", grace).result(grace + _STOP_MARGIN_S))
        except Exception:  # noqa: BLE001 - it is gone, or stuck: it is ended in any case
            return Stopped(0, None)
        finally:
            self._ends = True
            self.end()


def _look(transport: weakref.ref[RpcTransport], done: Answer) -> None:
    found = transport()
    if found is not None:
        found.soon(lambda: found._ended(done))  # noqa: SLF001 - as a method of it, which must not keep it
