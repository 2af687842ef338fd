"""Runs one operation in the middle of another, at every step, and finds the first step that breaks a rule."""

from __future__ import annotations

import dis
import linecache
import signal
import sys
from itertools import count
from pathlib import Path

import sage_plugins.call.batch
import sage_plugins.call.call
import sage_plugins.call.lazy_future
import sage_plugins.routing.draining
import sage_plugins.routing.lane
import sage_plugins.routing.losses
import sage_plugins.routing.method_limits
import sage_plugins.routing.prefetch
import sage_plugins.routing.queue
import sage_plugins.routing.router
import sage_plugins.routing.slot_recovery.inventory
import sage_plugins.routing.slot_recovery.recovery
from interleaved_world import OPERATIONS, World
from interleaving_rules import broken_rules
from interleaving_settings import SETTINGS
from sage_plugins.routing.router import Router
from turnstile import MustWaitError, Turnstile

#: Seconds of processor time after which an operation counts as an endless loop.
PATIENCE = 1.0


class SpinsError(BaseException):
    """The second operation, or after it the first, does not end."""


def place(frame):
    """Describe where a frame is."""
    code, line = frame.f_code, frame.f_lineno or frame.f_code.co_firstlineno
    source = linecache.getline(code.co_filename, line).strip()
    instruction = dis.opname[code.co_code[frame.f_lasti]]
    return f"{Path(code.co_filename).name}:{line} in {code.co_name}, at {instruction} of `{source}`"


def limit_seconds(seconds):
    """Raise SpinsError after so many seconds of processor time, if the system has such timers; 0 turns this off."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)


def spins(_, frame):
    raise SpinsError(f"it goes round in circles, {place(frame)}")


class Switch:
    """
    Runs *second* before the given step of the code in the `with` block.

    Attributes:
        reached: Whether there was such a step.
        possible: Whether *second* could run there without waiting for a lock.
        where: Describes the step, once it was reached.
    """

    FILES = frozenset(
        module.__file__
        for module in (
            sage_plugins.call.batch,
            sage_plugins.call.call,
            sage_plugins.call.lazy_future,
            sage_plugins.routing.prefetch,
            sage_plugins.routing.draining,
            sage_plugins.routing.slot_recovery.inventory,
            sage_plugins.routing.slot_recovery.recovery,
            sage_plugins.routing.lane,
            sage_plugins.routing.losses,
            sage_plugins.routing.method_limits,
            sage_plugins.routing.open_batch,
            sage_plugins.routing.queue,
            sage_plugins.routing.router,
        )
    )

    def __init__(self, step, second):
        self.reached = False
        self.possible = True
        self._steps_left = step
        self._second = second
        self.where = None

    def __enter__(self):
        self._traced_before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 reports steps only if a frame has asked before `settrace`
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self._traced_before)
        limit_seconds(0)

    def _trace(self, frame, _event, _argument):
        if frame.f_code.co_filename not in self.FILES:
            return None
        frame.f_trace = self._step  # set it first: without it, Python 3.13 reports no steps
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame, event, _):
        if event == "opcode":
            self._steps_left -= 1
            if not self._steps_left:
                sys.settrace(None)  # the steps after this one do not count
                self._switch(frame)
        return self._step

    def _switch(self, frame):
        self.reached = True
        self.where = place(frame)
        Turnstile.second_runs = True
        limit_seconds(PATIENCE)
        try:
            self._second()
        except MustWaitError:
            self.possible = False  # what the first operation does now says nothing
        finally:
            Turnstile.second_runs = False


def interleave(setting, first, second, step, router=Router):
    """Run *second* before the given step of *first*. Return whether there was such a step, and the failure or None."""
    world = World(SETTINGS[setting], router)
    switch = Switch(step, lambda: OPERATIONS[second](world))
    try:
        with switch:
            OPERATIONS[first](world)
        wrong = list(broken_rules(world)) if switch.possible else []
    except (Exception, SpinsError) as error:  # noqa: BLE001 - no operation may raise
        wrong = [f"{type(error).__name__}: {error}"]
    if not wrong or not switch.possible:
        return switch.reached, None
    moment = f"while a thread was in {switch.where}" if switch.reached else "afterwards"
    return switch.reached, (
        "\n  ".join((f"{first} / {second}: {second!r} {moment}", *wrong))
        + f'\n  play it again: SAGE_INTERLEAVING="{setting}: {first} / {second} / {step}" '
        "pytest tests/routing/test_interleavings.py"
    )


def search(setting, first, second, router=Router):
    """Try every step of *first*. Return the number of the last step tried, and the first failure or None."""
    for step in count(1):
        reached, failure = interleave(setting, first, second, step, router)
        if failure or not reached:
            break
    return step, failure
