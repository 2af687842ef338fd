"""The service, its calls, and what its instances observe."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import CancelledError, Future
from math import inf

from sage_plugins import errors
from sage_plugins.call.call import Call

__all__ = ["PATIENCE", "Site", "Ticket", "Witness"]

#: Seconds after which an expected state counts as not reached.
PATIENCE = 20.0


class BoomError(Exception):
    """Raised by a method on request."""


class Ticket:
    """One call: how it is made, what happened to it, and its expected result."""

    def __init__(self, number, verb, method, task, strategy, timeout):  # noqa: PLR0913, PLR0917 - the drawn values
        self.number = number
        self.verb = verb  # call, acall, submit, or watched: a future with a callback
        self.method = method  # work, or its coroutine awork
        self.task = task  # what the method does: echo, boom or hang
        self.timeout = timeout
        # what happened
        self.thread = None  # the caller's thread
        self.loop = self.awaiting = None  # the event loop and the task of a caller that awaits
        self.caller = Future()  # holds what the verb returned
        self.call = None
        self.callbacks = 0
        self.starts = 0
        self.inside = False
        self.way_out = Future()  # tells a method that hangs how to end
        # expected by the model
        self.can_be_stopped = method == "awork"
        self.runs_in_callers_thread = strategy == "inline" and verb != "acall" and method == "work"
        self.has_future_soon = verb in ("submit", "watched") and strategy != "inline"  # after it was accepted
        self.waits_until_over = strategy == "inline" or verb in ("call", "acall")
        self.expires = self.deadline = inf
        self.raced = self.was_parked = False
        self.outcome = None

    def __repr__(self):
        return f"#{self.number} ({self.verb}, {self.method}, {self.task})"

    def make(self, handle):
        """Make the call in the caller's thread. Return when the verb does."""
        self.thread = threading.current_thread()
        handle = handle.with_options(timeout=None if self.timeout == inf else self.timeout)
        try:
            if self.verb == "call":
                given = handle.call(self.method, self)
            elif self.verb == "acall":
                given = asyncio.run(self._await(handle))
            else:
                given = handle.submit(self.method, self)
                if self.verb == "watched":
                    given.add_done_callback(self._call_back)
        except BaseException as error:  # noqa: BLE001 - the comparison checks it
            self.caller.set_exception(error)
        else:
            self.caller.set_result(given)

    async def _await(self, handle):
        self.loop, self.awaiting = asyncio.get_running_loop(), asyncio.current_task()
        return await handle.acall(self.method, self)

    def _call_back(self, _):
        self.callbacks += 1

    def end(self, how):
        """Run the method's last step."""
        if how == "boom":
            raise BoomError(self.number)
        if how == "exit":
            raise SystemExit(self.number)
        return self.number

    @property
    def is_stuck(self):
        """Whether the method would hang forever if it ran."""
        return self.task == "hang" and not self.way_out.done() and not self.can_be_stopped

    def let_go(self, how):
        """End a method that hangs."""
        if not self.way_out.done():
            self.way_out.set_result(how)

    @property
    def future(self):
        """The future that `submit` returned, or None."""
        given = None
        if self.caller.done() and self.caller.exception() is None:
            given = self.caller.result()
        return given if isinstance(given, Call) else None

    def seen(self):
        """Return how the call ended for its caller, or None if it has not ended."""
        if self.future is not None:
            return self.published()
        if not self.caller.done():
            return None
        error = self.caller.exception()
        return self._name_of(error, None if error else self.caller.result())

    def published(self):
        """Return how the call itself says that it ended, or None if it has not ended or was never accepted."""
        call = self.call
        if call is None or not call.over():
            return None
        error = call.exception_now()
        return self._name_of(error, None if error else call.result())

    def _name_of(self, error, value):
        if error is None:
            return "ok" if value == self.number else f"the result of another call: {value!r}"
        if isinstance(error, errors.CallTimeoutError):
            return f"timeout in the {error.stage}"
        for kind, name in (
            (errors.OverloadedError, "overloaded"),
            (errors.ServiceStoppedError, "stopped"),
            ((CancelledError, asyncio.CancelledError), "cancelled"),
        ):
            if isinstance(error, kind):
                return name
        if isinstance(error, BoomError) and error.args == (self.number,):
            return "error"
        if isinstance(error, errors.RemoteError) and error.original_message == str(self.number):
            return "error"
        return f"an error that is not its own: {error!r}"


class Witness:
    """Records what the service's instances observe, and every violation of a rule."""

    def __init__(self, setting, clock):
        self.faults = []
        self.built = 0
        self.stopped = Counter()  # number of stop hooks by instance
        self._setting = setting
        self._clock = clock
        self._lock = threading.Lock()
        self._inside = Counter()
        self._threads = {}

    def build(self):
        """Return the number of a new instance."""
        with self._lock:
            self.built += 1
            return self.built

    def enter(self, ticket, instance):
        thread = threading.current_thread()
        with self._lock:
            ticket.starts += 1
            self._inside[instance] += 1
            if ticket.starts > 1:
                self.faults.append(f"{ticket} was started {ticket.starts} times")
            if ticket.outcome not in (None, "ok", "error"):
                self.faults.append(f"{ticket} was started although it had ended: {ticket.outcome}")
            if self._clock.monotonic() >= ticket.expires:
                self.faults.append(f"{ticket} was started when its time to start was over")
            if self._inside[instance] > self._setting.slots_each:
                self.faults.append(f"instance {instance} runs more calls than it has slots: {self._inside[instance]}")
            if self.stopped[instance]:
                self.faults.append(f"{ticket} was started on instance {instance} after its stop hook")
            if self._setting.strategy == "single" and self._threads.setdefault(instance, thread) is not thread:
                self.faults.append(f"{ticket} was started on another thread than the calls before it")
            if ticket.runs_in_callers_thread and thread is not ticket.thread:
                self.faults.append(f"{ticket} did not run in its caller's thread")
            ticket.inside = True

    def leave(self, ticket, instance):
        with self._lock:
            self._inside[instance] -= 1
            ticket.inside = False

    def stop(self, instance):
        with self._lock:
            self.stopped[instance] += 1
            if self.stopped[instance] > 1:
                self.faults.append(f"the stop hook of instance {instance} ran twice")


class Site:
    """The service."""

    def __init__(self, witness):
        self._witness = witness()
        self._number = self._witness.build()

    def work(self, ticket):
        self._witness.enter(ticket, self._number)
        try:
            how = ticket.way_out.result(10 * PATIENCE) if ticket.task == "hang" else ticket.task
        finally:
            self._witness.leave(ticket, self._number)
        return ticket.end(how)

    async def awork(self, ticket):
        self._witness.enter(ticket, self._number)
        try:
            how = await asyncio.wrap_future(ticket.way_out) if ticket.task == "hang" else ticket.task
        finally:
            self._witness.leave(ticket, self._number)
        return ticket.end(how)

    def stop(self):
        self._witness.stop(self._number)
