"""A replica in its own process: its host, and the server for callers in other processes."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_remote.link.serving.calls import CallServer
from sage_deploy_remote.link.serving.log_lines import LogLines
from sage_deploy_remote.link.serving.report import HostEvents
from sage_deploy_remote.link.serving.units import end_slots
from sage_deploy_remote.link.sockets.socket_inbox import SocketInbox
from sage_deploy_remote.payloads.substrate import PLAIN
from sage_plugins.clock import SYSTEM
from sage_plugins.host.host import Host
from sage_plugins.host.lifecycle import CANARY
from sage_plugins.interfaces import ControlOp
from sage_plugins.values import Outcome, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sage_deploy_remote.link.protocol import Notice
    from sage_deploy_remote.link.serving.late_calls import ArgumentSource
    from sage_deploy_remote.payloads.substrate import Substrate
    from sage_plugins.call.call import Call
    from sage_plugins.interfaces import Work
    from sage_plugins.values import ReplicaSpec

__all__ = ["ReplicaServer"]

#: Seconds that a call gets to end after its deadline, before its process is killed (`timeout_strength: kill`).
_ENDS_WITHIN_S: Final = 1.0


class ReplicaServer(CallServer):
    """One replica, for callers that exchange frames with it. Thread-safe."""

    def __init__(
        self,
        spec: ReplicaSpec,
        node: str | None,
        find_service: Callable[[str], Any],
        source: ArgumentSource | None = None,
        substrate: Substrate = PLAIN,
    ) -> None:
        """Prepare the replica; nothing runs before `start`. *source* None: no argument is a reference."""
        methods = (*spec.methods, CANARY)  # CANARY has index -1, as its plan says
        super().__init__(spec.service, spec.id, node, methods, SYSTEM, source=source, substrate=substrate)
        self.spec = spec
        self.socket_inbox = SocketInbox(self.quick_methods) if SocketInbox.possible() else None
        self.host = Host(spec, HostEvents(self, find_service), SYSTEM, node=node, inbox=self.socket_inbox)
        self._start_ended = threading.Event()
        self._start_error: BaseException | None = None
        self._ready = False
        self._stopped = self._host_ended = False  # the first: guarded by _lock; the second: the host takes no more work
        self._counting = threading.Lock()
        self._logs = LogLines(spec.service, spec.id)

    # -- start and end -----------------------------------------------------------------------------------------------

    def start(self) -> int:
        """
        Build the instance, run its start hooks, and wait for them; return the number of slots, 0 if it was stopped.

        Raises:
            BaseException: What the constructor or a hook raised.
        """
        self._record = self.host.compose_record()
        self._logs.begin()
        with self._lock:
            if self._stopped:
                return 0
            self.host.start()
        self._start_ended.wait()
        if self._start_error is not None:
            raise self._start_error
        return self.host.slots if self._ready else 0

    def changed(self, state: ReplicaState, cause: BaseException | None) -> None:
        """Handle a change of the host's state."""
        if state is not ReplicaState.STARTING:
            self._ready = state is ReplicaState.READY
            self._start_error = cause
            self._start_ended.set()

    def control(self, op: ControlOp, arg: Any, notices: Collection[tuple[str, Notice]]) -> Any:
        """
        Answer a question outside the calls.

        Args:
            op: The question.
            arg: Its argument.
            notices: Notices that may not have arrived yet, each with its caller; applied first.
        """
        for caller, notice in notices:
            mailbox = self.callers.find(caller)
            if mailbox is not None:  # else it has no call here
                self.take_notice(mailbox, notice)
        if op is ControlOp.LOGS:
            return self._logs.after(*arg)
        answer = self.host.control(op, arg)
        if op in {ControlOp.STATS, ControlOp.COUNTS}:
            self._leave_out_unpicklable(answer if op is ControlOp.COUNTS else answer["recorders"])
        return answer

    def _leave_out_unpicklable(self, snapshots: dict[str, Any]) -> None:
        """Leave out snapshots that cannot be pickled, or the replica would seem not to answer; log whose they are."""
        for monitor, snapshot in list(snapshots.items()):
            try:
                pickle.dumps(snapshot)
            except Exception as error:  # noqa: BLE001 - a plugin's fault must not make the whole status fail
                self.host.recorder_failed(error, monitor)
                del snapshots[monitor]

    def begin_stop(self) -> None:
        """As `Host.begin_stop`."""
        self.stop(0.0)

    def stop(self, grace: float) -> int:
        """As `Host.stop`; also ends a wait in `start`."""
        with self._lock:  # what has not started by now never will
            self._stopped = True
        self.callers.close()
        for call in self.late.waiting:  # first: no late call may begin after the stop hooks
            call.give_up(call.stopped_error(self.spec.id, self.node), Outcome.STOPPED)
        left = self.host.stop(grace)
        self._host_ended = True
        end_slots(self, self.host.end_unfetched())
        self._logs.end()
        self._start_ended.set()
        return left

    # -- runs the calls, as `calls.CallServer` requires
    # ------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """The host's number of slots."""
        return self.host.slots

    def put(self, work: Work) -> None:
        """Give *work* to the host."""
        self.host.put(work)
        if self._host_ended:  # the work was on its way when the host ended
            end_slots(self, self.host.end_unfetched())

    def cancel(self, call: Call) -> None:
        """As `Host.cancel`."""
        self.host.cancel(call)

    def count(self, method: int, outcome: int, wait_s: float, run_s: float) -> None:
        """Count the call in the way that the host counts the calls it runs."""
        with self._counting:
            self._record(method, outcome, wait_s, run_s)

    def deadline_passed(self, call: Call) -> None:
        """
        With `timeout_strength: kill`, end this process if *call* still has its slot after one second.

        The process that started the replica kills it itself, at once. This is for callers in other processes, which
        cannot.
        """
        if self.spec.config.timeout_strength != "kill":
            return
        holder = call.chain[-1]

        def look() -> None:
            if holder in self._holders:
                os.kill(os.getpid(), signal.SIGKILL)

        self.clock.call_at(self.clock.monotonic() + _ENDS_WITHIN_S, look)
