"""
A target whose replicas run in child processes of the test, so that they can really be killed.

It is minimal: every call that was sent may have started, only the calling side checks deadlines, and coroutines of
methods are not stopped.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from concurrent.futures import Future
from contextvars import copy_context
from itertools import count
from math import inf
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from sage_plugins.call.call import Call
from sage_plugins.call.owner import CallOwner
from sage_plugins.clock import SYSTEM
from sage_plugins.errors import ReplicaDiedError
from sage_plugins.host.host import Host
from sage_plugins.interfaces import ControlOp
from sage_plugins.values import CallOptions, Outcome, Placed, Registration, ReplicaState

CAPABILITIES = frozenset({"can_kill", "replaces_unhealthy"})


def registration(*, replica=None):
    """Return a registration of the target `process` with replicas of this class."""
    create = lambda _: ProcessTarget(replica or ProcessReplica)  # noqa: E731 - too short for a function
    return Registration("process", create, "In child processes", capabilities=CAPABILITIES)


class ProcessTarget:
    """
    Starts a process for each replica.

    Attributes:
        running: The running replicas of all targets by ID, for tests that kill one.
    """

    running: dict[str, ProcessReplica] = {}  # noqa: RUF012 - of all targets, as documented

    def __init__(self, replica):
        self._replica = replica

    def place(self, specs):
        return [Placed(None, "a child of this process") for _ in specs]

    def start(self, spec, at, events, clock):
        return self._replica(spec, events, clock)

    def close(self):
        pass


def kill(id):
    """Kill the process of a replica."""
    os.kill(ProcessTarget.running[id].process.pid, signal.SIGKILL)


class ProcessReplica:
    """The calling side of a replica."""

    def __init__(self, spec, events, clock):
        self.id, self.index, self.node = spec.id, spec.index, None
        self.slots = 1
        self.run_here = None
        self.give_up = lambda _call, _outcome, _spent: False
        self.send = self._send
        self._events = events
        self._clock = clock
        self._numbers = count()
        self._lock = threading.Lock()
        self._pending = {}  # calls and questions by number; guarded by _lock, as the next two
        self._dead = None
        self._stopping = False
        self._connection, theirs = Pipe()
        folders = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"import process_target; process_target.serve({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": folders},
        )
        theirs.close()
        ProcessTarget.running[self.id] = self
        self._connection.send_bytes(pickle.dumps(spec))
        self._reader = threading.Thread(target=self._read, name=f"{self.id}-reader", daemon=True)
        self._reader.start()
        events.changed(ReplicaState.STARTING)

    def _send(self, call):
        if self._clock.monotonic() >= call.expires:
            call.expire()
        if not call.claim():
            self._events.freed(call)
            return
        self._ask(call, "call", call.method.index, call.args, call.kwargs)

    def _ask(self, asked, what, *arguments):
        with self._lock:
            number = next(self._numbers)
            if self._dead is None:
                self._pending[number] = asked
                with contextlib.suppress(OSError):  # it is dead, which the reader will notice
                    self._connection.send((number, what, arguments))
                return
        if isinstance(asked, Future) and not isinstance(asked, Call):
            asked.set_exception(self._dead)
        else:
            # In another thread, because the sender may hold a lock.
            threading.Thread(target=self.report, args=((asked,), (), self._dead), daemon=True).start()

    def _read(self):
        while True:
            try:
                number, what, outcome = self._connection.recv()
            except (OSError, EOFError):
                break
            if number is None:
                self._told(what, outcome)
                continue
            with self._lock:
                asked = self._pending.pop(number)
            if isinstance(asked, Call):
                self._settle(asked, what, outcome)
            elif what == "result":
                asked.set_result(outcome)
            else:
                asked.set_exception(outcome)
        self._end()

    def _told(self, state, outcome):
        if state is ReplicaState.READY:
            self.slots, cause = outcome, None
        else:
            cause = outcome
        self._events.changed(state, cause)

    def _settle(self, call, what, outcome):
        if call.claim_outcome():
            self._events.freed(call)
            call.publish(*((outcome, None) if what == "result" else (None, outcome)))
        else:
            call.owner.abandoned_ended(call)
            self._events.freed(call)

    def _end(self):
        code = self.process.wait()
        self._connection.close()
        cause = ChildProcessError(f"its process ended with {code}")
        with self._lock:
            self._dead, pending = cause, tuple(self._pending.values())
            self._pending.clear()
            stopping = self._stopping
        ProcessTarget.running.pop(self.id, None)
        calls = [each for each in pending if isinstance(each, Call)]
        for question in (each for each in pending if not isinstance(each, Call)):
            question.set_exception(cause)
        if not stopping:
            self.report((), calls, cause)
        for call in calls if stopping else ():
            call.give_up(ReplicaDiedError("the service was stopped", maybe_executed=True), Outcome.STOPPED)

    def report(self, not_started, maybe, cause):
        self._events.lost(not_started, maybe, cause)

    def control(self, op, arg=None, *, timeout):
        answer = Future()
        self._ask(answer, "control", op, arg)
        return answer.result(timeout)

    def begin_stop(self):
        with self._lock:
            first, self._stopping = not self._stopping, True
            if first:
                with contextlib.suppress(OSError):  # it is already dead
                    self._connection.send((None, "stop", (1.0,)))

    def stop(self, grace):
        self.begin_stop()
        self._reader.join(grace)
        if self._reader.is_alive():  # do not wait for methods that hang
            self.process.kill()
            self._reader.join()
        return 0


# -- in the child ------------------------------------------------------------------------------------------------------


class Owner(CallOwner):
    """The part of the router that a call in the child needs."""

    service = "child"
    clock = SYSTEM

    def gave_up(self, call, outcome, *, started):
        """Do nothing: the router's side counts the call."""


class Events:
    """Reports events to the calling side."""

    def __init__(self, tell):
        self._tell = tell
        self.host = None

    def changed(self, state, cause=None):
        if cause is not None:  # pickling drops the traceback
            cause.add_note("".join(traceback.format_exception(cause)))
        if state is not ReplicaState.STARTING:
            self._tell(None, state, self.host.slots if state is ReplicaState.READY else cause)

    def follow(self, _work):
        return None

    freed = follow

    def service(self, name):
        raise LookupError(name)


def serve(number):
    """Run a replica, controlled by the other end of file descriptor *number*."""
    connection = Connection(number)
    lock = threading.Lock()

    def tell(number, what, outcome):
        with lock, contextlib.suppress(OSError):  # either end may be closed by now
            try:
                connection.send((number, what, outcome))
            except (pickle.PicklingError, TypeError, AttributeError):
                connection.send((number, "error", RuntimeError(repr(outcome))))

    def answer(number, call):
        error = call.exception()
        tell(number, *(("result", call.result()) if error is None else ("error", error)))

    spec = pickle.loads(connection.recv_bytes())  # noqa: S301 - from the test that started this process
    events = Events(tell)
    host = events.host = Host(spec, events, SYSTEM)
    host.start()
    while True:
        number, what, arguments = connection.recv()
        if what == "stop":
            host.stop(*arguments)
            connection.close()
            os._exit(0)
        if what == "control":
            threading.Thread(target=control, args=(host, arguments, number, tell), daemon=True).start()
            continue
        index, args, kwargs = arguments
        now, context = SYSTEM.monotonic(), copy_context()
        call = Call(Owner(), spec.methods[index], args, kwargs, CallOptions(), now, inf, inf, context)
        call.add_done_callback(lambda call, number=number: answer(number, call))
        host.put(call)


def control(host, arguments, number, tell):
    op, arg = arguments
    try:
        tell(number, "result", host.control(ControlOp(op), arg))
    except Exception as error:  # noqa: BLE001 - it goes to the process that asked
        tell(number, "error", error)
