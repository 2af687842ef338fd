"""Takes calls from callers in other processes, gives each a slot, and answers them."""

from __future__ import annotations

import threading
from contextvars import Context
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.serving.callers import Callers
from sage_deploy_remote.link.serving.late_calls import LateCalls, NoReferences
from sage_deploy_remote.link.serving.outbox import ForgottenError
from sage_deploy_remote.link.serving.report import Report, ServedCall, ServedStream, report_of
from sage_deploy_remote.link.serving.result_packer import ResultPacker
from sage_deploy_remote.link.serving.units import BatchUnit, CallGroup, StreamProducer
from sage_deploy_remote.payloads.payload import is_quick
from sage_deploy_remote.payloads.reading import read
from sage_deploy_remote.payloads.substrate import PLAIN
from sage_plugins.call.batch import Batch
from sage_plugins.call.call import Call
from sage_plugins.call.current import CARRIED
from sage_plugins.call.owner import CallOwner
from sage_plugins.errors import CallError, ReplicaDiedError
from sage_plugins.threads import CALLBACKS
from sage_plugins.values import GENERATORS, CallOptions, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_deploy_remote.link.protocol import CallItem, Frame, Notice, Response, Unit
    from sage_deploy_remote.link.serving.callers import Mailbox
    from sage_deploy_remote.link.serving.late_calls import ArgumentSource
    from sage_deploy_remote.link.sockets.socket_inbox import SocketInbox
    from sage_deploy_remote.payloads.payload import Payload
    from sage_deploy_remote.payloads.substrate import Substrate
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import Work
    from sage_plugins.values import MethodPlan

__all__ = ["CallServer"]

#: Seconds that callers get to read their answers before the replica stops.
_READ_WITHIN_S: Final = 1.0

#: A call that ran for fewer seconds counts as quick.
_QUICK_S: Final = 0.0005

_NO_OPTIONS: Final = CallOptions()


class CallServer(CallOwner):
    """
    Takes the calls of one replica, or of a router for several, whose callers exchange frames with it.

    A subclass decides what runs the calls. Thread-safe. `exchange` blocks its thread until there is something to say.

    Attributes:
        id: The replica's ID, for errors.
        node: Its node's name; None if it has none.
        callers: The callers that have calls here.
        packer: Packs results and errors.
        late: Calls whose arguments have not arrived yet.
        quick_methods: Indices of methods that took no time when they last ran; changed by single operations.
        socket_inbox: The inbox whose workers read connections; None if there is none.
    """

    socket_inbox: SocketInbox | None = None

    def __init__(  # noqa: PLR0913 - all that a server needs
        self,
        service: str,
        id: str,
        node: str | None,
        methods: Sequence[MethodPlan],
        clock: Clock,
        *,
        source: ArgumentSource | None = None,
        substrate: Substrate = PLAIN,
    ) -> None:
        """Start without calls. The last of *methods* has index -1. *source* None: no argument is a reference."""
        self.service = service
        self.id = id
        self.node = node
        self.clock = clock
        self._methods = methods
        self._lock = threading.Lock()
        self._answered = threading.Condition(self._lock)  # notified of each answer while `vacate` waits
        self._vacating = False  # guarded by _lock, as the next two
        self._holders: set[tuple[str, int]] = set()  # caller and unit of each taken slot
        self._refused: list[Mailbox] = []  # one entry for each unit that found no slot, oldest first
        self.callers = Callers(self, lambda: bool(self._holders or self._refused), self._give_up_gone)
        self.quick_methods: set[int] = set()
        self._batches: dict[Any, BatchUnit] = {}  # units of the batches that run
        self._source: ArgumentSource = NoReferences() if source is None else source
        self.packer = ResultPacker(service, id, node, substrate)
        self.late = LateCalls(service, clock, self._source, self._arguments_arrived, self._arguments_failed)

    # -- for subclasses ----------------------------------------------------------------------------------------------

    @property
    def slots(self) -> float:
        """Number of units that may run at once; inf for no limit."""
        raise NotImplementedError

    def put(self, work: Work) -> None:
        """Run *work*, which has its slot and its arguments. Call `work_ended` when it has ended."""
        raise NotImplementedError

    def cancel(self, call: Call) -> None:
        """Stop what can be stopped of *call*, which was given to `put` and whose answer nobody wants."""
        raise NotImplementedError

    def count(self, method: int, outcome: int, wait_s: float, run_s: float) -> None:
        """Count a call that has ended and that the subclass's runner does not count."""
        raise NotImplementedError

    def count_unread(self, call: Call) -> None:
        """Count *call* as failed because its arguments cannot be read."""
        self.count(call.method.index, Outcome.ERROR, self.clock.monotonic() - call.since, 0.0)

    def caller_waits(self, call: Call) -> None:
        """Note that the method that made *call*, in another process, waits for it from now on."""

    def deadline_passed(self, call: Call) -> None:
        """Note that the deadline of *call* has passed, although its method may still run."""

    # -- end ---------------------------------------------------------------------------------------------------------

    def vacate(self) -> None:
        """
        Refuse new units, and wait until the callers have the answers to all running calls.

        Calls that were given up count as answered. For one thread only.
        """
        with self._answered:
            self._vacating = True
            self._answered.wait_for(self._all_answered)
            # The last replies travel with responses that callers read in a moment. Some callers may be gone.
            self._answered.wait_for(self._all_read, _READ_WITHIN_S)

    def _all_answered(self) -> bool:
        return all(call.settled() for mailbox in self.callers.mailboxes for call in tuple(mailbox.calls.values()))

    def _all_read(self) -> bool:
        return not any(mailbox.has_replies for mailbox in self.callers.mailboxes)

    def wake_vacate(self) -> None:
        """Wake `vacate`, because a call was answered or a response was sent."""
        if self._vacating:
            with self._answered:
                self._answered.notify_all()

    # -- calls -------------------------------------------------------------------------------------------------------

    def exchange(self, frame: Frame) -> Response:
        """
        Take a frame, and wait until there is something to say to its sender.

        Raises:
            RuntimeError: The sender expects replies, but was forgotten.
        """
        while True:
            mailbox = self.callers.mailbox(frame.caller)
            try:
                mailbox.enter(frame.number, fresh=frame.fresh)
            except ForgottenError:  # forgotten right now: make another mailbox
                continue
            try:
                self.take(mailbox, frame)
            finally:
                mailbox.frame_taken()
            return mailbox.collect(frame.number)

    def take(self, mailbox: Mailbox, frame: Frame) -> None:
        """Take the next frame of a caller; replies go to *mailbox*. One thread at a time for each caller."""
        for unit in frame.units:
            self._admit(mailbox, unit)
        for notice in frame.notices:
            self.take_notice(mailbox, notice)

    def note_quick(self, method: int, seconds: float) -> None:
        """Note that a call of *method* ran for *seconds*."""
        if seconds < _QUICK_S:
            self.quick_methods.add(method)
        else:
            self.quick_methods.discard(method)

    def _give_up_gone(self, call: Call, why: str) -> None:
        """End a call whose caller is gone. A caller that was only suspended gets this error when it comes back."""
        id, name = self.id, f"{self.service}.{call.method.name}"
        for runs in (False, True):
            so_far = "it had started, and may have had its effect" if runs else "it had not started, and never will"
            error = ReplicaDiedError(
                f"{name} was given up by {id}, {why}; {so_far}. The process stood still, or was cut off",
                maybe_executed=runs,
                service=self.service,
                method=call.method.name,
                replica=id,
                node=self.node,
            )
            if call.give_up(error, Outcome.CANCELLED, only_unstarted=not runs):
                return

    # -- work from frames --------------------------------------------------------------------------------------------

    def _admit(self, mailbox: Mailbox, unit: Unit) -> None:
        holder, chain = (mailbox.caller, unit.id), unit.items[0].chain
        self.callers.schedule_check()
        with self._lock:
            accepted = len(self._holders) < self.slots and not self._vacating
            if accepted:
                self._holders.add(holder)
            else:
                self._refused.append(mailbox)
                stuck = bool(chain) and not self._vacating and self._holders.issubset(chain)
        if not accepted:
            mailbox.post((protocol.REFUSED, unit.id, stuck))
            return
        mailbox.begin_unit()
        alone = len(unit.items) == 1 and not unit.batch
        if alone and is_quick(unit.items[0].payload):
            self._begin_alone(mailbox, unit, holder)
            return
        group = (
            None
            if alone
            else (BatchUnit if unit.batch else CallGroup)(
                mailbox, unit.id, len(unit.items), reports_starts=unit.reports_starts
            )
        )
        calls = [self._call(mailbox, item, group, holder) for item in unit.items]
        begin = partial(self._begin, mailbox, unit, group, calls)
        if all(is_quick(item.payload) for item in unit.items):
            begin()
        else:
            CALLBACKS.run(begin)  # code of an argument's class may take long, and must not delay other calls

    def _begin_alone(self, mailbox: Mailbox, unit: Unit, holder: tuple[str, int]) -> None:
        """Do what `_begin` does, faster, for a single call; most calls are."""
        item = unit.items[0]
        call = self._call(mailbox, item, None, holder)
        if self._read_arguments(call, item.payload) is None:
            self._put(call)
        else:
            self._begin(mailbox, unit, None, [call])

    def _begin(self, mailbox: Mailbox, unit: Unit, group: CallGroup | None, calls: Sequence[Call]) -> None:
        """Run the calls of *unit* in its slot; calls whose arguments cannot be read fail."""
        able: list[Call] = []
        failed: list[tuple[Call, BaseException]] = []
        for call, item in zip(calls, unit.items, strict=True):
            error = self._read_arguments(call, item.payload)
            if error is not None and self._claim_failed(call):
                failed.append((call, error))
            else:  # also a call that was given up meanwhile: its worker finds that, and frees its slot
                able.append(call)
        if isinstance(group, BatchUnit):
            self._admit_batch(group, able, calls[0])
        elif able:
            if group is not None:
                group.waiting.extend(able[1:])
                mailbox.watch(group)
            self._put(able[0])
        else:
            self._put(self.work_ended(calls[0]))
        # After the slot was freed, as for a call that has run.
        for call, error in failed:
            call.publish(None, error)

    def _read_arguments(self, call: Call, payload: Payload) -> BaseException | None:
        """
        Give *call* its arguments, or the references that stand for them.

        Return the error if they cannot be read, else None.
        """
        if call.over():
            return None
        found, error = read(payload, self.service, call.method.name, "its arguments")
        if error is not None:
            return error
        if payload[-1]:
            try:
                present = self._source.fetch_present(*found)
            except BaseException as raised:  # noqa: BLE001 - any error goes to the caller
                return raised
            report_of(call).late = present is None
            found = present or found
        call.args, call.kwargs = found
        return None

    def _admit_batch(self, unit: BatchUnit, calls: Sequence[Call], first: Call) -> None:
        """
        Begin a batch with the calls whose arguments have arrived.

        The others run when their arguments arrive, in the slot of *first*.
        """
        late = [call for call in calls if report_of(call).late]
        unit.late = len(late)
        unit.present.extend(call for call in calls if not report_of(call).late)
        self._put(self._next_batch(unit, first))
        for call in late:
            self.late.add(call)

    def _next_batch(self, unit: BatchUnit, call: Call) -> Work | None:
        """
        Return the batch that runs next in the slot of *unit*, which has *call*.

        Without calls to run now, return None; if no late calls are left either, free the slot.
        """
        calls = unit.take()
        if calls is None:
            self.free_slot(call.chain[-1])
            unit.count_event()
        if not calls:
            return None
        batch = Batch(calls)
        self._batches[batch] = unit
        return batch

    def _put(self, work: Any) -> None:
        """Run *work* in the slot that it has, as soon as its arguments are here."""
        if isinstance(work, Call) and report_of(work).late:
            self.late.add(work)
        elif work is not None:
            self.put(work)

    def _arguments_arrived(self, call: Call) -> None:
        """
        Run *call*, whose arguments have arrived or are not needed any more.

        In the second case, its worker finds that and frees its slot.
        """
        report = report_of(call)
        report.late = False
        if isinstance(report.unit, BatchUnit):
            report.unit.arrived(call)
            self._put(self._next_batch(report.unit, call))
        else:
            self._put(call)

    def _arguments_failed(self, call: Call, error: BaseException) -> None:
        """End *call* with *error*, because one of its arguments cannot be had; its method does not start."""
        if not self._claim_failed(call):
            self._arguments_arrived(call)
            return
        # The slot first, as for a call that has run.
        report = report_of(call)
        report.late = False
        if isinstance(report.unit, BatchUnit):
            report.unit.late_call_ended()
            self._put(self._next_batch(report.unit, call))
        else:
            self._put(self.work_ended(call))
        call.publish(None, error)

    def _claim_failed(self, call: Call) -> bool:
        """Count *call* as failed before its method started; return False if it is over already."""
        if not (call.claim() and call.claim_outcome()):
            return False
        self.count_unread(call)
        return True

    def _call(self, mailbox: Mailbox, item: CallItem, unit: CallGroup | None, holder: tuple[str, int]) -> Call:
        """Make the call of *item*; it has no arguments yet."""
        method = self._methods[item.method]
        now = self.clock.monotonic()
        since, deadline, context = now - item.waited, now + item.remaining, Context()
        if item.carried is not None:
            context.run(CARRIED.set, item.carried)
        options = _NO_OPTIONS if item.options is None else CallOptions(*item.options)
        fields: tuple[Any, ...] = (self, method, (), {}, options, since, deadline, deadline, context)
        call: ServedCall | ServedStream
        if item.streams:
            call = ServedStream(*fields, item_timeout=inf)
            call.channel = StreamProducer(mailbox, item.id, lambda value: self.packer.pack_result(value, method.name))
        else:
            call = ServedCall(*fields)
        report = call.report = Report(self, mailbox, item.id, call, unit)
        call.on_settled(report.send)
        call.chain = (*item.chain, holder)
        if item.waits:
            call.waits = True
        mailbox.calls[item.id] = call
        return call

    def take_notice(self, mailbox: Mailbox, notice: Notice) -> None:
        """Act on what a caller says about an earlier call."""
        kind, id, *rest = notice
        if kind == protocol.COUNT:
            method, wait_s, run_s = rest
            self.count(method, Outcome.ERROR, wait_s, run_s)
            return
        call = mailbox.calls.get(id)
        if call is None:  # it was answered meanwhile
            return
        if kind == protocol.ACK:
            channel: Any = call.channel  # type: ignore[attr-defined] # only streams are acknowledged
            channel.acknowledge(*rest)
        elif kind == protocol.TAKEN_BACK:
            mailbox.forget(id)
        elif kind == protocol.WAITS:
            self.caller_waits(call)
        elif kind == protocol.CLOSE:
            call.channel.close()  # type: ignore[attr-defined] # as above
            self.late.stop_waiting(call)
            self.cancel(call)
        else:
            outcome, spent = rest
            report = report_of(call)
            report.caller_knows = True
            report.seconds_since_made = spent
            # Its deadline has passed here too, even if this process's clock is a moment behind.
            call.deadline = min(call.deadline, self.clock.monotonic())
            if not call.give_up(CallError("its caller gave it up"), outcome) and report.returned:
                self.gave_up(call, outcome, started=False)
                mailbox.forget(id)

    # -- slots -----------------------------------------------------------------------------------------

    def work_ended(self, work: Any) -> Work | None:
        """
        Return what runs next in the slot of *work*, which has ended.

        If nothing does and no call of it is late, free the slot and return None.
        """
        if isinstance(work, Batch):
            ended = self._batches.pop(work)
            ended.run_ended()
            return self._next_batch(ended, work.calls[0])
        holder = work.chain[-1]
        report = report_of(work)
        unit = report.unit
        if unit is not None:
            following = unit.next()
            if following is None:
                self.free_slot(holder)
                unit.count_event()
            elif report_of(following).late:
                self.late.add(following)
                return None
            return following
        self.free_slot(holder)
        if report.outcome is not None:  # a call that was given up frees its slot only now
            report.mailbox.forget(report.id)
            report.mailbox.end_unit((protocol.ENDED, report.id, 0.0))
        return None

    def free_slot(self, holder: tuple[str, int]) -> None:
        """
        Free the slot of *holder*.

        Every caller with refused units may try one again, because some callers may be gone.
        """
        with self._lock:
            self._holders.discard(holder)
            mailboxes = list(dict.fromkeys(self._refused)) if self._refused else []
            for mailbox in mailboxes:
                self._refused.remove(mailbox)
        for mailbox in mailboxes:
            mailbox.post((protocol.ROOM, 1))

    # -- as owner of its calls, see `call.CallOwner` -----------------------------------------------------------------

    def failed(self, call: Call, error: BaseException) -> Callable[[], None] | None:
        """Leave the retry, or else the counting, to the caller of *call*."""
        if call.method.kind in GENERATORS or not call.claim_outcome():
            return None
        report_of(call).uncounted = True
        return partial(call.publish, None, error)

    def gave_up(self, call: Call, outcome: int, *, started: bool) -> None:
        """Count a call that its caller, or a stop, ended before its method did."""
        report = report_of(call)
        report.outcome = outcome
        report.runs_on = started
        spent = self.clock.monotonic() - call.since if report.seconds_since_made is None else report.seconds_since_made
        if started:
            self.cancel(call)
        if outcome != Outcome.DROPPED:
            self.count(call.method.index, outcome, 0.0 if started else spent, spent if started else 0.0)
