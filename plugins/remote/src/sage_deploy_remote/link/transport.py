"""
What a substrate implements to carry calls to replicas in other processes: `Transport`.

A substrate is whatever starts processes and moves bytes between them: a cluster framework, sockets, pipes. Its target
makes one transport for each replica and gives it to `replica.RemoteReplica`, which does everything else on the caller's
side. In the replica's process the substrate makes a `serving.server.ReplicaServer` of what `shipping` has packed, calls
its methods for what the transport asks, and sends back what they return. `rpc_transport.RpcTransport` and
`serving.endpoint.ReplicaEndpoint` are most of that for a substrate that can call a method in another process.
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

    `RemoteReplica` calls exactly one of the two methods, once.
    """

    def wait(self, call: Call, seconds: float | None) -> None:
        """
        Wait for the response in this thread, and hand it to `Receiver.arrived` here.

        The thread is that of *call*'s caller: reading the response here saves waking another thread. After *seconds*,
        and when the wait is interrupted by an exception such as KeyboardInterrupt, do as `leave` does.

        Args:
            call: What the caller waits for; pass it to `Receiver.arrived`.
            seconds: Longest wait; None for no limit.
        """

    def leave(self) -> None:
        """Have another thread hand the response to `Receiver.arrived` when it comes; returns at once."""


class Stopped(NamedTuple):
    """
    How a replica stopped.

    Attributes:
        left: Calls that still ran; they ended with the process.
        stats: Its last `ControlOp.STATS`, None if it could not be asked any more.
    """

    left: int
    stats: Mapping[str, Any] | None


class Transport(Protocol):
    """
    The way to one replica's process.

    All methods may be called from any thread, also at the same time. What comes from the process is handed to the
    `Receiver` that `start` was given, in any thread.

    A frame must arrive once or not at all, and so must its response. Frames need not arrive in their order, and
    responses need not either: both are numbered. A frame that is on its way when the process dies must end in
    `Receiver.lost`; so must the death of a process to which nothing is on its way.
    """

    substrate: Substrate
    """
    Which objects the transport carries itself, beside the pickles; `payloads.substrate.PLAIN` for none.

    Their places are the third parts of the payloads in a frame and in a response.
    """

    address: Any
    """
    By which other processes of the deployment reach the replica; from `start` on.

    It is pickled and given to the target's directory. None if only this process reaches it.
    """

    pushes: bool
    """
    Whether responses come as soon as there is something to say.

    Else each answers one frame, and the caller sends another frame as long as it expects something. It may become true
    before a call is sent.
    """

    exact: bool
    """
    Whether what the replica has said arrives, even if its process is killed at that moment; only one that `pushes`.

    Then it is known of each call whether it has started.
    """

    routes: bool
    """Whether what takes the calls gives them to a router, which minds their options."""

    def start(self, spec: Any, receiver: Receiver) -> None:
        """
        Start the process and build the replica in it; returns at once.

        There, make the spec of what `shipping.specs.pack_spec` has packed, make a `ReplicaServer` of it, and call its
        `start`. What that gives is for `Receiver.started`, unless it is 0: then the replica was stopped meanwhile. What
        it raises is for `Receiver.failed`. If the process cannot be started, tell `Receiver.lost`.

        Args:
            spec: What to run, a `ReplicaSpec`; for a replica that runs already, its `ListedReplica`.
            receiver: Whom to tell.
        """

    def progress(self, timeout: float) -> str:
        """
        What a replica waits for that is not ready yet, such as a place for its process; "" if there is nothing to say.

        Args:
            timeout: Seconds in which the answer comes.
        """

    def exchange(self, frame: Frame) -> Exchange:
        """
        Send *frame*; never blocks.

        There, `ReplicaServer.exchange` takes the frame, in a thread of its own: it waits until there is something to
        say. If the frame cannot be sent, tell `Receiver.lost` when the exchange is waited for, or left.
        """

    def control(self, op: ControlOp, arg: Any, notices: Collection[tuple[str, Notice]], timeout: float) -> Any:
        """
        Ask beside the calls, and wait for the answer; there, `ReplicaServer.control` gives it.

        It must be answered while all slots are taken, and while exchanges wait.

        Args:
            op: What to ask.
            arg: What about.
            notices: What the replica has to know before it answers.
            timeout: Longest wait in seconds.

        Raises:
            Exception: What the answer raised, or that there was none in time.
        """

    def vacate(self) -> Callable[[float], None]:
        """
        Have the replica take no calls any more; returns at once. There, `ReplicaServer.vacate` does it.

        Returns:
            What waits for the calls that the replica has, at most so many seconds.
        """

    def ask_to_stop(self) -> None:
        """Have the replica run its stop hooks, with `ReplicaServer.begin_stop` there; returns at once."""

    def stop(self, grace: float) -> Stopped:
        """
        Stop the replica, wait for its hooks at most *grace* seconds, and end its process in any case.

        The end of a process that was stopped is no loss: `Receiver.lost` is ignored from then on.
        """

    def leave(self) -> None:
        """Let go of what leads to the process, which goes on. Never raises."""

    def kill(self) -> None:
        """End the process at once, whatever it does; may block for a moment. Never raises."""

    def soon(self, do: Callable[[], None]) -> None:
        """Have the thread that reads responses do something quick, as `dispatcher.Dispatcher.soon`; never blocks."""


class Receiver(Protocol):
    """What a transport tells; `RemoteReplica` is one. Each method may be called from any thread."""

    @property
    def awaited(self) -> int:
        """Of how many calls the replica has something to say; at least 1 if it has anything to say."""

    def started(self, slots: int) -> None:
        """The replica is ready, and runs *slots* calls at once."""

    def failed(self, cause: BaseException) -> None:
        """The constructor or a start hook raised *cause*; the process lives."""

    def arrived(self, response: Response, reader: Call | None = None) -> None:
        """
        A response has come.

        Args:
            response: What the replica says.
            reader: The call whose caller's thread this is, see `Exchange.wait`; None in any other thread.
        """

    def hold(self) -> None:
        """Send nothing until `release`: it is not known yet which way calls go. Told before `Transport.start` ends."""

    def release(self) -> None:
        """Send what has been waiting, and whatever comes."""

    def remark(self, text: str) -> None:
        """Have those told who watch the service."""

    def unarrived(self, frame: Frame) -> None:
        """
        Nothing of *frame* has arrived, nor will it.

        So when the process is told to be lost, what it was to run has surely not started.
        """

    def lost(self, cause: BaseException) -> None:
        """The process is gone, with all it had; *cause* is what callers get. May be told more than once."""
