"""A base for transports whose substrate can call methods in the replica's process and returns a future for each."""

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

__all__ = ["Answer", "RpcExchange", "RpcTransport", "failed_answer"]

#: Seconds that a replica gets beyond its grace period to report that it has stopped.
_STOP_MARGIN_S: Final = 1.0


class Answer(Protocol):
    """Future result of a method in another process; `concurrent.futures.Future` is one."""

    def result(self, timeout: float | None = None) -> Any:
        """Wait at most *timeout* seconds for the result; then raise TimeoutError."""

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """
        Wait as `result` does, and return the error that it would raise, or None.

        An error that this raises itself does not come from the method.
        """

    def add_done_callback(self, fn: Callable[[Any], Any], /) -> object:
        """Call *fn* in any thread when the result is there; its argument has `result`. *fn* must not block."""


def failed_answer(error: BaseException) -> Future[Any]:
    """Return the answer to a request that could not be sent."""
    answer: Future[Any] = Future()
    answer.set_exception(error)
    return answer


class RpcExchange:
    """The `Exchange` of a frame that was sent as a request."""

    def __init__(self, answer: Answer, transport: RpcTransport) -> None:
        """
        Wait for nothing yet.

        Args:
            answer: Becomes the response, in a form that the transport's `read` accepts.
            transport: The transport that sent the frame.
        """
        self._answer = answer
        self._transport = transport

    def wait(self, call: Call, seconds: float | None) -> None:
        """As `Exchange.wait`."""
        until = None if seconds is None else time.monotonic() + seconds
        read = False
        try:
            while not read:
                # Use KeyboardInterrupt: some substrates keep waiting after any other exception.
                with DeferredSignals(waits=True) as signals:
                    self._read_here(call, until, signals)
                    read = True
        except BaseException:  # raised by a signal handler, which does not concern the replica
            if not read:
                self.read_elsewhere()
            raise

    def _read_here(self, call: Call, until: float | None, signals: DeferredSignals) -> None:
        """Wait for the response and read it; reading is not interrupted."""
        transport = self._transport
        try:
            error = self._answer.exception(None if until is None else max(0.0, until - time.monotonic()))
        except TimeoutError:
            signals.waited()
            self.read_elsewhere()
            return
        signals.waited()
        if error is None:
            transport.receiver.arrived(transport.read(self._answer.result()), call)
        else:  # whatever the substrate's error is, no answer to the frame will come
            transport.lost(error)

    def read_elsewhere(self) -> None:
        """As `Exchange.read_elsewhere`."""
        self._answer.add_done_callback(lambda done: self._transport.run_quick(lambda: self._arrived(done)))

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
    A base for transports. A subclass adds `begin`, `request`, `end` and, for errors of its own, `death`.

    Requests call the methods of `serving.endpoint.ReplicaEndpoint` in the replica's process.

    Attributes:
        receiver: Gets what arrives.
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
        self.run_quick = dispatcher.run_quick
        self._end_expected = False  # whether this side ends the process, so that its end is no loss

    # -- for subclasses ----------------------------------------------------------------------------------------------

    def begin(self, spec: ReplicaSpec) -> Answer:
        """Start the process, and return the answer of its `start`."""
        raise NotImplementedError

    def request(self, method: str, *arguments: Any) -> Answer:
        """Call a method of the endpoint. Never blocks or raises: see `failed_answer`."""
        raise NotImplementedError

    def end(self) -> None:
        """End the process, even if it is busy. Never raises."""
        raise NotImplementedError

    def death(self, error: BaseException) -> BaseException:
        """Return the error for callers after a request failed with *error*: the process is gone or counts as gone."""
        return error

    def read(self, response: Any) -> Response:
        """Return the response that the endpoint's `exchange` returned."""
        found: Response = response
        return found

    # -- start and end -----------------------------------------------------------------------------------------------

    def start(self, spec: ReplicaSpec, receiver: Receiver) -> None:
        """As `Transport.start`."""
        self.receiver = receiver
        self.begin(spec).add_done_callback(lambda done: self.run_quick(lambda: self._started(done)))

    def _started(self, done: Answer) -> None:
        try:
            slots, error = done.result()
        except BaseException as raised:  # noqa: BLE001 - with any error, the replica will not start
            self.lost(raised)
        else:
            self.started(slots, error)

    def started(self, slots: int, error: Any) -> None:
        """Handle the result of the endpoint's `start`."""
        if error is not None:
            self.receiver.failed(unpack_error(error))
        elif slots:  # 0: it was stopped before it was ready
            self.receiver.started(slots)

    def watch(self, ended: Answer) -> None:
        """Report that the process is gone when *ended* fails. This does not keep an unused transport alive."""
        here = weakref.ref(self)
        ended.add_done_callback(lambda done: _report_end(here, done))

    def _ended(self, done: Answer) -> None:
        try:
            done.result()
        except BaseException as error:  # noqa: BLE001 - any error means that the process has ended
            self.lost(error)

    def lost(self, error: BaseException) -> None:
        """Report that the process is gone or unreachable, unless it was stopped; *error* comes from the substrate."""
        if not self._end_expected:
            self.receiver.lost(self.death(error))

    def progress(self, timeout: float) -> str:  # noqa: ARG002 - as the protocol has it
        """As `Transport.progress`. Always empty: this base assumes that a process starts at once."""
        return ""

    # -- requests ----------------------------------------------------------------------------------------------------

    def exchange(self, frame: Frame) -> Exchange:
        """As `Transport.exchange`."""
        return RpcExchange(self.request("exchange", frame), self)

    def control(self, op: ControlOp, arg: Any, notices: Collection[tuple[str, Notice]], timeout: float) -> Any:
        """As `Transport.control`; raises TimeoutError if there is no answer within *timeout* seconds."""
        answer, error = self.request("control", op, arg, tuple(notices)).result(timeout)
        if error is not None:
            raise unpack_error(error)
        return unpack(answer) if op is ControlOp.GET else answer

    def vacate(self) -> Callable[[float], None]:
        """As `Transport.vacate`."""
        vacated = self.request("vacate")

        def wait(limit: float) -> None:
            with suppress(Exception):  # timed out, or already gone: it is stopped in any case
                vacated.result(limit)

        return wait

    def leave(self) -> None:
        """As `Transport.leave`."""
        self._end_expected = True

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
        except Exception:  # noqa: BLE001 - it is gone or stuck: `end` follows in any case
            return Stopped(0, None)
        finally:
            self._end_expected = True
            self.end()


def _report_end(transport: weakref.ref[RpcTransport], done: Answer) -> None:
    found = transport()
    if found is not None:
        found.run_quick(lambda: found._ended(done))  # noqa: SLF001 - a method would keep the transport alive
