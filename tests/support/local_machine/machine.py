"""The same steps for a service and for its model, and the comparison of the two after each."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import wait
from math import inf

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from local_machine.model import Life
from local_machine.service import PATIENCE, Site, Ticket, Witness
from local_machine.setting import UNIT_S, settings_of
from sage_plugins import Environment
from sage_plugins.call import Call
from sage_plugins.testing.virtual_clock import VirtualClock

__all__ = ["LocalMachine"]

#: As `values.Outcome` has them, less `died`: replicas on target `local` die only with their process.
OUTCOMES = ("ok", "error", "timeout", "cancelled", "stopped")

#: Calls that wait or run at once, at most: more would tell nothing new.
ALIVE = 10


class Deployment:
    """A deployed service, its model, and the comparison of the two."""

    def __init__(self, env, witness, life):
        self.life = life
        self.witness = witness
        self.tickets = []
        self.closers = []  # threads that stop it
        self.handle = env.service("site")
        self.task = env.task("site")

    def differences(self):
        """What is not as the model says and never will be, and what may still come true."""
        life, router = self.life, self.task._router
        never, not_yet = list(self.witness.faults), []
        for ticket in self.tickets:
            self._compare(ticket, never, not_yet)
        self._compare_counts(never, not_yet)
        closing = sum(thread.is_alive() for thread in self.closers)
        for what, found, wanted in (
            ("calls wait", router.waiting, len(life.queue)),
            ("calls are parked", router.parked, len(life.parked)),
            (
                "places in the queue are taken or free",
                len(router._room) + router._unminted + len(life.queue),
                life.setting.queue_size,
            ),
            ("threads wait for its end", closing, len(self.closers) if life.state == "draining" else 0),
            ("", self.task.state, life.state),
            ("is whether it accepts calls", self._accepts(), life.state == "ready"),
            *self._instances(),
        ):
            if found != wanted:
                not_yet.append(f"{found} {what}; the model says {wanted}")
        if life.state != "stopped":
            held = sum(lane.inflight for lane in router.lanes)
            if held != len(life.running):
                not_yet.append(f"{held} slots are taken; the model says {len(life.running)}")
        return never, not_yet

    def _accepts(self):
        """Its state changes a moment before its router does."""
        router = self.task._router
        return router._stopped is None and router._stopped_to_outsiders is None

    def _instances(self):
        """How many instances there should be; while methods hang nobody can say when the last stop hook runs."""
        if self.life.state == "stopped" and self.life.running:
            return
        left = self.witness.built - self.witness.stopped.total()
        yield "instances are not stopped", left, 0 if self.life.state == "stopped" else self.life.replicas

    def _compare(self, ticket, never, not_yet):
        callbacks = ticket.callbacks
        seen, published, wanted = ticket.seen(), ticket.published(), ticket.outcome
        runs = ticket in self.life.running
        if ticket.inside and not runs and ticket.is_stuck:
            never.append(f"{ticket} runs; the model says that it does not")
        elif ticket.inside is not runs:
            not_yet.append(f"{ticket} {'runs' if ticket.inside else 'does not run'}; the model says otherwise")
        if seen is not None and seen != wanted:
            never.append(f"{ticket} ended as {seen!r}; the model says {wanted!r}")
        elif seen != wanted and not (ticket.inside and ticket.runs_in_callers_thread):
            not_yet.append(f"{ticket} goes on for its caller; the model says {wanted!r}")
        if seen is not None and published not in (None, seen):
            never.append(f"{ticket} ended twice, as {seen!r} and as {published!r}")
        if ticket.verb == "watched" and callbacks != (ticket.future is not None and seen is not None):
            (never if callbacks > 1 else not_yet).append(f"{ticket} called back {callbacks} times")
        if seen in ("ok", "error") and ticket.starts != 1:
            never.append(f"{ticket} ended as {seen!r} and was started {ticket.starts} times")

    def _compare_counts(self, never, not_yet):
        metrics = self.task.status()["metrics"]
        for what, found, wanted in (
            *((outcome, metrics.outcomes.get(outcome, 0), self.life.outcomes[outcome]) for outcome in OUTCOMES),
            ("in all", metrics.request_count, self.life.outcomes.total()),
            ("refused", metrics.rejected_count, self.life.refused),
        ):
            if found != wanted:
                (never if found > wanted else not_yet).append(f"{found} calls are counted {what}; {wanted} ended so")
        if metrics.abandoned_count != len(self.life.abandoned):
            not_yet.append(f"{metrics.abandoned_count} calls are counted abandoned; {len(self.life.abandoned)} are")


class LocalMachine(RuleBasedStateMachine):
    """
    Does the same to a service and to its model; `strategy` and what is drawn at the beginning say to which.

    `fault(patch)` may break something, which must then be found out.
    """

    strategy = "single"
    patience = PATIENCE
    fault = staticmethod(lambda patch: None)

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        # The machine lets the time of waiting callers come, so it needs the calls that they have no name for.
        self.patch.setattr("sage_plugins.handle.Call", _note_call)
        # Real seconds, in which closing waits for methods that hang.
        self.patch.setattr("sage_plugins.replica_set._LAST_GRACE_S", 0.05)
        self.patch.setattr("sage_plugins.host._STUCK_GRACE_S", 0.05)
        self.fault(self.patch)
        self.clock = VirtualClock()
        self.threads = []
        self.made = 0
        self.deployments = []
        self.broken = False
        self.env = None

    @property
    def deployed(self):
        return self.deployments[-1]

    @property
    def life(self):
        return self.deployed.life

    @property
    def refuses(self):
        """Whether the service has stopped and has refused a call since: it will do so again."""
        return any(ticket.outcome == "stopped" and not ticket.raced for ticket in self.deployed.tickets[-1:])

    def in_thread(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True, name=f"machine-{len(self.threads)}")
        self.threads.append(thread)
        thread.start()
        return thread

    def settle(self):
        """Wait until the services are as their models say."""
        until = time.monotonic() + self.patience
        pause = threading.Event()
        while True:
            never, not_yet = [], []
            for deployment in self.deployments:
                for found, more in zip((never, not_yet), deployment.differences(), strict=True):
                    found.extend(more)
            if never or (not_yet and time.monotonic() > until):
                self.broken = True
                raise AssertionError("\n".join([*never, *not_yet]))
            if not not_yet:
                return
            pause.wait(0.0002)

    # -- deploying

    @initialize(data=st.data())
    def begin(self, data):
        self.deploy(data)

    @precondition(lambda self: self.life.state == "stopped")
    @rule(data=st.data())
    def deploy_again(self, data):
        """Methods of the previous deployment may still hang."""
        self.deploy(data)

    def deploy(self, data):
        """In the same environment as before, unless that was closed."""
        if self.env is None:
            self.setting = data.draw(settings_of(self.strategy), label="setting")
            self.env = Environment("machine", clock=self.clock)
            self.env.register_service_with_config(
                "site", Site, lambda: self.witness, deployment_config=self.setting.config()
            )
        self.witness = Witness(self.setting, self.clock)
        self.env.deploy()
        self.deployments.append(Deployment(self.env, self.witness, Life(self.setting, self.clock.monotonic())))
        self.settle()

    # -- calling

    @precondition(lambda self: len(self.life.alive) < ALIVE and not (self.refuses and self.life.state == "stopped"))
    @rule(
        verb=st.sampled_from(("call", "call", "submit", "submit", "watched", "acall")),
        method=st.sampled_from(("work", "work", "awork")),
        task=st.sampled_from(("hang", "hang", "hang", "echo", "boom")),
        units=st.sampled_from((None, None, 1, 3)),
    )
    def call(self, verb, method, task, units):
        self.offer(verb, method, task, units)

    @precondition(lambda self: self.life.state == "ready" and 0 < self.life.free <= ALIVE - len(self.life.alive))
    @rule(verb=st.sampled_from(("call", "submit", "watched")), method=st.sampled_from(("work", "work", "awork")))
    def take_every_slot(self, verb, method):
        for _ in range(self.life.free):
            self.offer(verb, method, "hang", None)

    def offer(self, verb, method, task, units):
        ticket = self.ticket(verb, method, task, inf if units is None else units * UNIT_S)
        self.deployed.tickets.append(ticket)
        self.life.offer(ticket)
        self.in_thread(ticket.make, self.deployed.handle)
        self.settle()

    def ticket(self, verb, method, task, timeout=inf):
        self.made += 1
        return Ticket(self.made, verb, method, task, self.setting.strategy, timeout)

    def pick(self, number, tickets):
        return tickets[number % len(tickets)]

    @precondition(lambda self: self.hanging())
    @rule(number=st.integers(0, ALIVE), how=st.sampled_from(("echo", "echo", "boom", "exit")))
    def end_method(self, number, how):
        deployment, ticket = self.pick(number, self.hanging())
        deployment.life.finish(ticket, how)
        ticket.let_go(how)
        self.settle()

    def hanging(self):
        return [(each, ticket) for each in self.deployments for ticket in each.life.running]

    # -- giving up

    @precondition(lambda self: self.futures())
    @rule(number=st.integers(0, 3 * ALIVE))
    def cancel(self, number):
        """Also what runs or has ended: that fails."""
        ticket = self.pick(number, self.futures())
        succeeds = self.life.cancel(ticket)
        self.check(ticket.future.cancel() is succeeds, f"cancelling {ticket} gave {not succeeds}")
        self.settle()

    def futures(self):
        """What the callers of `submit` hold, unless it is a matter of luck whether they got it before it was over."""
        return [
            ticket
            for ticket in self.deployed.tickets
            if ticket.future is not None and not (ticket.raced or (ticket.was_parked and ticket.outcome is not None))
        ]

    @precondition(lambda self: self.awaiting())
    @rule(number=st.integers(0, ALIVE))
    def cancel_task(self, number):
        ticket = self.pick(number, self.awaiting())
        self.life.cancel(ticket, abandon=True)
        ticket.loop.call_soon_threadsafe(ticket.awaiting.cancel)
        self.settle()

    def awaiting(self):
        return [ticket for ticket in self.life.alive if ticket.verb == "acall" and ticket.outcome is None]

    # -- time

    @precondition(lambda self: any(ticket.expires < inf for ticket in self.life.alive))
    @rule(units=st.integers(1, 3))
    def let_time_pass(self, units):
        """Callers who wait notice, and so do callbacks; nobody looks after the others' calls."""
        for _ in range(units):
            self.tick()
            self.settle()  # what gets a slot gets it before more time passes

    def tick(self):
        life = self.life
        watched = [ticket for ticket in life.alive if ticket.outcome is None and life.is_watched(ticket)]
        life.now += UNIT_S
        for ticket in watched:
            life.look(ticket)
        self.clock.advance(UNIT_S)
        for ticket in watched:
            if ticket.verb != "watched" or ticket.future is None:
                # What its waiting thread or its event loop would do by itself, were the clock a real one.
                ticket.call.expire()

    @precondition(lambda self: self.futures())
    @rule(number=st.integers(0, 3 * ALIVE))
    def look(self, number):
        ticket = self.pick(number, self.futures())
        self.life.look(ticket)
        over = ticket.outcome is not None
        self.check(ticket.future.done() is over, f"{ticket} said that it is {'not ' if over else ''}over")
        self.settle()

    # -- the end

    @precondition(lambda self: self.life.state == "ready" or (self.life.state == "draining" and self.env is not None))
    @rule(whole=st.booleans(), at_once=st.booleans())
    def stop(self, whole, at_once):
        """The service, or the environment too; with time for accepted calls, or without."""
        life, deployed = self.life, self.deployed
        if life.state == "draining":
            whole, at_once = True, False  # a second stop waits for the first
        (life.end if at_once else life.drain)()
        stop = self.env.close if whole else deployed.task.stop
        deployed.closers.append(self.in_thread(stop, 0.0 if at_once else None))
        if whole:
            self.env = None
        self.settle()

    # -- threads that race

    @precondition(lambda self: self.life.state == "ready" and self.life.free and not self.life.waiting)
    @rule(
        callers=st.integers(2, 4),
        each=st.integers(1, 5),
        verb=st.sampled_from(("call", "submit", "cancel")),
        method=st.sampled_from(("work", "awork")),
        meanwhile=st.sampled_from(("nothing", "nothing", "a method ends", "drain")),
    )
    def burst(self, callers, each, verb, method, meanwhile):
        """Several threads call at the same time, while a method ends or the service drains."""
        deployment, life = self.deployed, self.life
        made = "call" if verb == "call" else "submit"
        if not life.fits(self.ticket(made, method, "echo")):  # a method that hangs has its only turn
            method = "awork"
        tickets = [[self.ticket(made, method, "echo") for _ in range(each)] for _ in range(callers)]
        start = threading.Barrier(callers + 1)
        threads = [self.in_thread(_call_all, start, deployment.handle, some, verb == "cancel") for some in tickets]
        start.wait(PATIENCE)
        if meanwhile == "a method ends" and life.running:
            ended = life.running[0]
            life.finish(ended, "echo")
            ended.let_go("echo")
        elif meanwhile == "drain":
            deployment.closers.append(self.in_thread(deployment.task.stop))
        for thread in threads:
            thread.join(self.patience)
            self.check(not thread.is_alive(), "a caller of the burst is never released")
        possible = {"ok"}
        possible |= {"cancelled"} if verb == "cancel" else set()
        possible |= {"overloaded"} if life.setting.reject else set()
        possible |= {"stopped"} if meanwhile == "drain" else set()
        seen = Counter()
        for ticket in (ticket for some in tickets for ticket in some):
            ticket.raced = True
            ticket.outcome = ticket.seen()
            self.check(ticket.outcome in possible, f"{ticket} of a burst ended as {ticket.outcome!r}")
            seen[ticket.outcome] += 1
            deployment.tickets.append(ticket)
        # Whether a call was refused or was stopped while it waited for room, its caller cannot tell.
        stopped = deployment.task.status()["metrics"].outcomes.get("stopped", 0) - life.outcomes["stopped"]
        self.check(0 <= stopped <= seen["stopped"], f"{stopped} calls of a burst are counted stopped")
        life.outcomes.update({"ok": seen["ok"], "cancelled": seen["cancelled"], "stopped": stopped})
        life.refused += seen["overloaded"] + seen["stopped"] - stopped
        if meanwhile == "drain":
            life.drain()
        self.settle()

    def check(self, holds, message):
        if not holds:
            self.broken = True
            raise AssertionError(message)

    def teardown(self):
        """The end must be as the model says too."""
        try:
            while self.hanging() and not self.broken:
                self.end_method(0, "echo")
            if self.life.state == "ready" and not self.broken:
                self.stop(whole=True, at_once=False)
        finally:
            self.let_go()

    def let_go(self):
        """Leave no thread behind, whatever has gone wrong."""
        self.broken = True
        self.patch.undo()
        for deployment in self.deployments:
            for ticket in deployment.tickets:
                ticket.let_go("echo")
        if self.env is not None:
            self.env.close(0)
        for ticket in (ticket for deployment in self.deployments for ticket in deployment.tickets):
            if ticket.call is not None and not ticket.call.abandon():
                ticket.call.release()
        for thread in self.threads:
            thread.join(PATIENCE)


def _note_call(*arguments):
    call = Call(*arguments)
    (ticket,) = call.args
    ticket.call = call
    return call


def _call_all(start, handle, tickets, cancel):
    """What one thread of a burst does."""
    start.wait(PATIENCE)
    for ticket in tickets:
        ticket.make(handle)
    futures = [ticket.future for ticket in tickets if ticket.future is not None]
    for future in futures[::2] if cancel else ():
        future.cancel()
    wait(futures, PATIENCE)
