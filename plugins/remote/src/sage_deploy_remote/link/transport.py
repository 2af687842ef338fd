"""
The interface that a substrate implements to carry calls to replicas in other processes: `Transport`.

A substrate, such as a cluster framework, sockets or pipes, starts processes and moves bytes between them. Its target
makes one transport for each replica and gives it to `replica.RemoteReplica`, which does the rest on the caller's side.

In the replica's process, the substrate makes a `serving.server.ReplicaServer` from what `shipping` has packed, calls
its methods for the transport's requests, and sends back what they return. `rpc_transport.RpcTransport` and
`serving.endpoint.ReplicaEndpoint` do most of this for a substrate that can call a method in another process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from sage_deploy_remote.link.protocol import Frame, Notice, Response
    from sage_deploy_remote.payloads.substrate import Substrate
    from sage_plugins.call.call import Call
    from sage_plugins.interfaces import ControlOp

__all__ = ["Exchange", "Receiver", "Stopped", "Transport"]


class Exchange(Protocol):
    """
    One frame on its way, and the response that will answer it.

    `RemoteReplica` calls exactly one of `wait` and `read_elsewhere`, once.
    """

    def wait(self, call: Call, seconds: float | None) -> None:
        """
        Wait for the response in this thread, and pass it to `Receiver.arrived` here.

        This is the thread of *call*'s caller: reading here avoids waking another thread. After *seconds*, or when an
        exception such as KeyboardInterrupt ends the wait, do what `read_elsewhere` does.

        Args:
            call: The call whose caller waits; pass it to `Receiver.arrived`.
            seconds: Longest wait; None for no limit.
        """

    def read_elsewhere(self) -> None:
        """Let another thread pass the response to `Receiver.arrived` when it comes; return at once."""


class Stopped(NamedTuple):
    """
    How a replica stopped.

    Attributes:
        left: Calls that were still running; they ended with the process.
        stats: The replica's last `ControlOp.STATS`; None if it could not be asked any more.
    """

    left: int
    stats: Mapping[str, Any] | None


class Transport(Protocol):
    """
    The connection to one replica's process. Thread-safe.

    What the process sends goes to the `Receiver` given to `start`, in any thread.

    A frame must arrive once or not at all, and so must its response; in any order, because both are numbered. If the
    process dies, call `Receiver.lost`, whether a frame is on its way or not.
    """

    substrate: Substrate
    """
    The objects that the transport carries itself, outside the pickles, as third parts of the payloads.

    `payloads.substrate.PLAIN` for none.
    """

    address: Any
    """
    The address by which other processes of the deployment reach the replica; available from `start` on.

    It is pickled, for the target's directory. None if only this process reaches the replica.
    """

    pushes: bool
    """
    Whether the replica sends responses as soon as it has something to say.

    If not, each response answers one frame, and the caller sends frames as long as it expects something. May become
    true before a call is sent.
    """

    exact: bool
    """
    Whether everything that the replica has said arrives, even if its process is killed at that moment.

    If so, it is known of each call whether it has started. Only for transports with `pushes`.
    """

    routes: bool
    """Whether a router takes the calls on the other side, and applies their options."""

    def start(self, spec: Any, receiver: Receiver) -> None:
        """
        Start the process and build the replica in it; return at once.

        In the process, rebuild the spec from `shipping.specs.pack_spec`, make a `ReplicaServer` of it, and call its
        `start`. Pass the result to `Receiver.started`, unless it is 0: then the replica was stopped meanwhile. Pass an
        error to `Receiver.failed`. If the process cannot be started, call `Receiver.lost`.

        Args:
            spec: The `ReplicaSpec` to run; for a replica that runs already, its `ListedReplica`.
            receiver: Gets what the process sends.
        """

    def progress(self, timeout: float) -> str:
        """
        Say what a replica that is not ready waits for, for example a node for its process; "" if unknown.

        Args:
            timeout: Longest time until the answer, in seconds.
        """

    def exchange(self, frame: Frame) -> Exchange:
        """
        Send *frame*; never blocks.

        In the process, `ReplicaServer.exchange` takes the frame in a separate thread, because it waits until there is
        something to say. If the frame cannot be sent, call `Receiver.lost` from the exchange's `wait` or
        `read_elsewhere`.
        """

    def control(self, op: ControlOp, arg: Any, notices: Collection[tuple[str, Notice]], timeout: float) -> Any:
        """
        Ask a question outside the calls, and wait for the answer of `ReplicaServer.control`.

        The process must answer even while all slots are taken and exchanges wait.

        Args:
            op: The question.
            arg: The argument of the question.
            notices: Notices that the replica must know before it answers.
            timeout: Longest wait in seconds.

        Raises:
            Exception: What the answer raised, or that none came in time.
        """

    def vacate(self) -> Callable[[float], None]:
        """
        Stop the replica from taking calls, with `ReplicaServer.vacate` there; return at once.

        The returned function waits for the replica's remaining calls, at most the given seconds.
        """

    def ask_to_stop(self) -> None:
        """Make the replica run its stop hooks, with `ReplicaServer.begin_stop` there; return at once."""

    def stop(self, grace: float) -> Stopped:
        """
        Stop the replica, wait at most *grace* seconds for its hooks, and end its process in any case.

        Then its end is no loss: `Receiver.lost` is ignored from now on.
        """

    def leave(self) -> None:
        """Release the connection to the process, which continues to run. Never raises."""

    def kill(self) -> None:
        """End the process at once, even if it is busy; may block for a moment. Never raises."""

    def run_quick(self, do: Callable[[], None]) -> None:
        """
        Run *do*, which must be quick, in the thread that reads responses, as `Dispatcher.run_quick` does; never blocks.
        """


class Receiver(Protocol):
    """Gets what a transport reports, such as `RemoteReplica`. Thread-safe."""

    @property
    def awaited(self) -> int:
        """Number of calls about which the replica has something to say; at least 1 if it has anything to say."""

    def started(self, slots: int) -> None:
        """The replica is ready, and runs up to *slots* calls at once."""

    def failed(self, cause: BaseException) -> None:
        """The constructor or a start hook raised *cause*; the process lives."""

    def arrived(self, response: Response, reader: Call | None = None) -> None:
        """
        Take a response.

        Args:
            response: What the replica says.
            reader: The call whose caller runs this thread, see `Exchange.wait`; None in any other thread.
        """

    def hold(self) -> None:
        """
        Send nothing until `release`, because the way for calls is not known yet.

        Called before `Transport.start` ends.
        """

    def release(self) -> None:
        """Send queued work, and all later work as usual."""

    def remark(self, text: str) -> None:
        """Report *text* to those who watch the service."""

    def frame_not_arrived(self, frame: Frame) -> None:
        """
        Note that nothing of *frame* has arrived or will arrive.

        So when the process is reported lost, the calls in it count as not started.
        """

    def lost(self, cause: BaseException) -> None:
        """The process is gone with all its work; callers get *cause*. May be called more than once."""
