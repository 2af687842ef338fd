"""The caller's side of a replica in another process: sends it work, reads its responses, and reports its death."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.frame_sender import FrameSender
from sage_deploy_remote.link.outstanding import Outstanding
from sage_deploy_remote.link.response_reader import ResponseReader
from sage_plugins.call.batch import Batch
from sage_plugins.interfaces import ControlOp
from sage_plugins.values import Outcome, ReplicaState, RunnerStats

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sage_deploy_remote.link.protocol import Frame, Response
    from sage_deploy_remote.link.transport import Transport
    from sage_deploy_remote.reach.listing import ListedReplica
    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import ReplicaEvents, Work
    from sage_plugins.values import ReplicaSpec

__all__ = ["RemoteReplica"]


class RemoteReplica:
    """
    A replica whose host is in another process.

    A call is claimed when it is sent, because it may start from then on. Calls that are made while a thread sends a
    frame or reads a response leave together in the next frame.
    """

    run_here: Callable[[Call], None] | None = None

    def __init__(
        self,
        spec: ReplicaSpec | ListedReplica,
        node: str | None,
        events: ReplicaEvents,
        clock: Clock,
        transport: Transport,
    ) -> None:
        """Start the replica; returns at once. *spec* may be a listed replica that runs already."""
        self.id = spec.id
        self.index = spec.index
        self.node = node
        self.slots = 0
        self._events = events
        self._clock = clock
        self._transport = transport
        self._outstanding = Outstanding()
        self._sender = FrameSender(spec.service, events, clock, transport, self._outstanding, self._report_lost)
        self._response_reader = ResponseReader(events, transport, self._outstanding, self._sender)
        self.send: Callable[[Work], None] = self._sender.send
        self.told_waits = self._tell_waits if transport.routes else None
        self._stop_requested = False  # whether this side has asked it to stop
        self._ended = False  # whether this side has stopped it
        self._killed: BaseException | None = None  # why this side kills it
        self._last_stats: Mapping[str, Any] | None = None  # its statistics when it stopped
        self._stopped_at = 0.0
        events.changed(ReplicaState.STARTING)
        transport.start(spec, self)

    # -- start and end -----------------------------------------------------------------------------------------------

    def started(self, slots: int) -> None:
        """As `Receiver.started`."""
        self.slots = slots
        self._events.changed(ReplicaState.READY)

    def failed(self, cause: BaseException) -> None:
        """As `Receiver.failed`."""
        self._events.changed(ReplicaState.FAILED, cause)

    def lost(self, cause: BaseException) -> None:
        """As `Receiver.lost`."""
        with self._outstanding.lock:
            if self._outstanding.dead is not None or self._ended:
                return
            self._outstanding.dead = self._killed or cause
        self._report_lost()

    def hold(self) -> None:
        """As `Receiver.hold`."""
        self._sender.holds_work = True

    def release(self) -> None:
        """As `Receiver.release`."""
        self._sender.holds_work = False
        self._sender.flush(waits=False)

    def remark(self, text: str) -> None:
        """As `Receiver.remark`."""
        self._events.remark(text)

    def frame_not_arrived(self, frame: Frame) -> None:
        """As `Receiver.frame_not_arrived`."""
        self._outstanding.unstarted.update(item.id for unit in frame.units for item in unit.items)

    def arrived(self, response: Response, reader: Call | None = None) -> None:
        """As `Receiver.arrived`."""
        self._response_reader.arrived(response, reader)

    def _report_lost(self) -> None:
        """Report the work that the process had, and the work that was not sent yet."""
        cause = self._outstanding.dead
        assert cause is not None  # noqa: S101 - for the type checker
        unsent = self._sender.take_unsent()
        unstarted = frozenset(self._outstanding.unstarted)
        maybe: list[Work] = []
        for sent in self._outstanding.take_units():
            may_have, have_not = sent.split_unfinished(unstarted)
            maybe += may_have
            unsent += have_not
        self._events.lost(unsent, maybe, cause)

    @property
    def awaited(self) -> int:
        """As `Receiver.awaited`."""
        return len(self._outstanding.calls) or not self._outstanding.idle

    @property
    def gone(self) -> bool:
        """Whether its process has ended."""
        return self._ended or self._outstanding.dead is not None

    @property
    def address(self) -> Any:
        """The address by which other processes reach it."""
        return self._transport.address

    def vacate(self) -> Callable[[float], None]:
        """As `ReachableReplica.vacate`."""
        return self._transport.vacate()

    def progress(self, *, timeout: float) -> str:
        """As `WaitingReplica.progress`."""
        return self._transport.progress(timeout)

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """As `Replica.control`. A stopped replica returns the statistics from when it stopped."""
        if op is not ControlOp.STATS:
            return self._transport.control(op, arg, (), timeout)
        if self._last_stats is not None:
            return {**self._last_stats, "age": self._clock.monotonic() - self._stopped_at}
        if self._outstanding.dead is not None:
            raise self._outstanding.dead
        notices = [(self._sender.caller, notice) for notice in tuple(self._outstanding.given_up.values())]
        return self._transport.control(op, arg, notices, timeout)

    def begin_stop(self) -> None:
        """As `Replica.begin_stop`."""
        with self._outstanding.lock:
            again, self._stop_requested = self._stop_requested or self._ended, True
        if not again:
            self._transport.ask_to_stop()

    def stop(self, grace: float) -> int:
        """As `Replica.stop`; then end its process, and with it whatever still runs."""
        if self._ended:
            return 0
        left, stats = self._transport.stop(grace)
        self._end(stats)
        return left

    def kill(self, cause: BaseException) -> bool:
        """As `KillableReplica.kill`."""
        with self._outstanding.lock:
            if self._outstanding.dead is not None or self._ended or self._killed is not None:
                return False
            self._killed = cause  # first, because the transport's own report of the end says less
        self._transport.kill()  # this also reads what the replica said before
        self.lost(cause)
        return True

    def leave(self) -> None:
        """As `DetachableReplica.leave`."""
        self._end(None)
        self._transport.leave()

    def _end(self, stats: Mapping[str, Any] | None) -> None:
        """Give up all calls that are not answered, because no answer will come."""
        with self._outstanding.lock:
            self._ended = True
        if stats is not None:
            self._stopped_at = self._clock.monotonic()
            self._last_stats = {**stats, "runner": RunnerStats(0)}
        for call in tuple(self._outstanding.calls.values()):
            call.give_up(call.stopped_error(self.id, self.node), Outcome.STOPPED)
        for work in self._sender.take_unsent():
            for call in work.calls if isinstance(work, Batch) else (work,):
                call.give_up(call.stopped_error(self.id, self.node), Outcome.STOPPED)
        self._outstanding.take_units()

    # -- calls that callers give up ----------------------------------------------------------------------------------

    def give_up(self, call: Call, outcome: int, spent: float) -> bool:
        """As `Replica.give_up`: tell the replica to count the call, and to stop its coroutine."""
        if outcome == Outcome.OK:
            stream = self._outstanding.stream_of(call)
            if stream is not None and not call.settled():
                stream.close()
            return True
        if call is self._response_reader.counted_by_replica or call.answered:
            self._response_reader.drop_answer(call)
            return not call.uncounted
        number = self._outstanding.number_of(call)
        if number is None or self.gone:
            return False
        notice = self._outstanding.given_up[number] = (protocol.GIVE_UP, number, outcome, spent)
        self._sender.notify_now(notice)
        return True

    def _tell_waits(self, call: Call) -> None:
        """Tell the replica that the method that made *call* now waits for it."""
        number = self._outstanding.number_of(call)
        if number is not None:
            self._sender.notify_now((protocol.WAITS, number))

    def count_failed(self, call: Call) -> None:
        """Tell the replica to count *call*, which failed with its method's error and whose counting was left to us."""
        self._sender.notify_now(
            (protocol.COUNT, 0, call.method.index, call.began - call.since, call.ended - call.began)
        )
