"""Applies the same steps to a service and to its model."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import wait
from functools import wraps
from math import inf

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from local_machine.deployment import Change, Deployment
from local_machine.model import Life
from local_machine.service import PATIENCE, Site, Ticket, Witness
from local_machine.setting import BALANCERS, UNIT_S, settings
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import Environment
from sage_plugins.call.call import Call

__all__ = ["LocalMachine"]

#: Maximum number of calls that wait or run at once. More would find nothing new.
ALIVE = 10


def only_if(possible):
    """
    Make a rule do nothing while it is not *possible*.

    With a `precondition`, Hypothesis's draws would depend on the order in which threads ran in a burst. Hypothesis
    gives up if a step that it replays is no longer possible.
    """

    def decorate(step):
        @wraps(step)
        def maybe(machine, **drawn):
            if possible(machine):
                step(machine, **drawn)

        return maybe

    return decorate


class LocalMachine(RuleBasedStateMachine):
    """
    Applies the same steps to a service and its model. `strategy` and the initial draw choose the service.

    `fault(patch)` may break something on purpose, which the machine must then find. Findings also go into `failures`,
    because Hypothesis replays a failing example and reports something else if the replay ends differently.
    """

    strategy = "single"
    patience = PATIENCE
    fault = staticmethod(lambda patch: None)
    failures: list[str]

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        # The machine passes the time of waiting callers, so it needs their calls, to which they hold no reference.
        self.patch.setattr("sage_plugins.routing.handles.binding.Call", _NotedCall)
        # Real seconds for which closing waits for methods that hang.
        self.patch.setattr("sage_plugins.deployment.replicas.stopper._LAST_GRACE_S", 0.05)
        self.patch.setattr("sage_plugins.host.host._STUCK_GRACE_S", 0.05)
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
        """Whether the service has stopped and then refused a call. It would only refuse again."""
        return any(ticket.outcome == "stopped" and not ticket.raced for ticket in self.deployed.tickets[-1:])

    def in_thread(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True, name=f"machine-{len(self.threads)}")
        self.threads.append(thread)
        thread.start()
        return thread

    def settle(self):
        """Wait until the services are in the state of their models."""
        until = time.monotonic() + self.patience
        pause, seconds = threading.Event(), 0.0002
        while True:
            never, not_yet = [], []
            for deployment in self.deployments:
                for found, more in zip((never, not_yet), deployment.differences(), strict=True):
                    found.extend(more)
            if never or (not_yet and time.monotonic() > until):
                self.fail("\n".join([*never, *not_yet]))
            if not not_yet:
                return
            pause.wait(seconds)
            seconds = min(2 * seconds, 0.02)  # each look takes processor time from the service

    # -- deploying

    @initialize(setting=settings())
    def begin(self, setting):
        self.deploy(setting)

    def deploy(self, setting):
        """Deploy in the same environment and with the same setting as before, unless the environment was closed."""
        if self.env is None:
            self.setting = setting._replace(strategy=self.strategy)
            self.env = Environment("machine", clock=self.clock)
            self.env.register_service_with_config(
                "site", Site, lambda: self.witness, deployment_config=self.setting.config()
            )
        self.witness = Witness(self.setting, self.clock)
        self.env.deploy()
        self.deployments.append(Deployment(self.env, self.witness, Life(self.setting, self.clock.monotonic())))
        self.settle()

    # -- calling

    @rule(
        verb=st.sampled_from(("call", "call", "submit", "submit", "watched", "acall")),
        method=st.sampled_from(("work", "work", "awork")),
        task=st.sampled_from(("hang", "hang", "hang", "echo", "boom")),
        units=st.sampled_from((None, None, 1, 3)),
    )
    @only_if(lambda self: len(self.life.alive) < ALIVE and not (self.refuses and self.life.state == "stopped"))
    def call(self, verb, method, task, units):
        self.offer(verb, method, task, units)

    @rule(verb=st.sampled_from(("call", "submit", "watched")), method=st.sampled_from(("work", "work", "awork")))
    @only_if(lambda self: self.life.state == "ready" and 0 < self.life.free <= ALIVE - len(self.life.alive))
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

    @rule(number=st.integers(0, ALIVE), how=st.sampled_from(("echo", "echo", "boom", "exit")))
    @only_if(lambda self: self.hanging())
    def end_method(self, number, how):
        deployment, ticket = self.pick(number, self.hanging())
        deployment.life.finish(ticket, how)
        ticket.let_go(how)
        self.settle()

    def hanging(self):
        return [(each, ticket) for each in self.deployments for ticket in each.life.running]

    # -- giving up

    @rule(number=st.integers(0, 3 * ALIVE))
    @only_if(lambda self: self.futures())
    def cancel(self, number):
        """Cancel any call. For one that runs or has ended, this must fail."""
        ticket = self.pick(number, self.futures())
        succeeds = self.life.cancel(ticket)
        self.check(ticket.future.cancel() is succeeds, f"cancelling {ticket} gave {not succeeds}")
        self.settle()

    def futures(self):
        """Return the futures of `submit` calls, except those for which timing decides whether the caller got one."""
        return [
            ticket
            for ticket in self.deployed.tickets
            if ticket.future is not None and not (ticket.raced or (ticket.was_parked and ticket.outcome is not None))
        ]

    @rule(number=st.integers(0, ALIVE))
    @only_if(lambda self: self.awaiting())
    def cancel_task(self, number):
        ticket = self.pick(number, self.awaiting())
        self.life.cancel(ticket, abandon=True)
        ticket.loop.call_soon_threadsafe(ticket.awaiting.cancel)
        self.settle()

    def awaiting(self):
        return [ticket for ticket in self.life.alive if ticket.verb == "acall" and ticket.outcome is None]

    # -- time

    @rule(units=st.integers(1, 3))
    @only_if(lambda self: any(ticket.expires < inf for ticket in self.life.alive))
    def let_time_pass(self, units):
        """Waiting callers and callbacks notice the time. Nobody checks the other calls."""
        for _ in range(units):
            self.tick()
            self.settle()  # so that a call that can get a slot gets it before more time passes

    def tick(self):
        life = self.life
        watched = [ticket for ticket in life.alive if ticket.outcome is None and life.is_watched(ticket)]
        # Decide this before time passes. A call that enters the queue meanwhile may set a timer for a moment that is
        # already past. A real clock would run that timer at once, this one only with the next step.
        without_timer = [ticket for ticket in watched if ticket.verb != "watched" or ticket.future is None]
        life.now += UNIT_S
        for ticket in watched:
            life.look(ticket)
        self.clock.advance(UNIT_S)
        for ticket in without_timer:
            # With a real clock, the waiting thread, the event loop or the timer of the call would do this.
            ticket.call.expire()

    @rule(number=st.integers(0, 3 * ALIVE))
    @only_if(lambda self: self.futures())
    def look(self, number):
        ticket = self.pick(number, self.futures())
        self.life.look(ticket)
        over = ticket.outcome is not None
        self.check(ticket.future.done() is over, f"{ticket} said that it is {'not ' if over else ''}over")
        self.settle()

    # -- changing the replicas

    @rule(what=st.sampled_from(("scale", "scale", "restart", "rebalance")), replicas=st.integers(1, 3))
    @only_if(lambda self: self.can_change)
    def change_replicas(self, what, replicas):
        """Changes also happen while calls hang on leaving replicas."""
        if what == "scale" and (replicas <= self.life.replicas or self.setting.limit is None):
            self.scale(replicas)
        elif what == "restart" and self.can_restart:
            self.restart()
        elif what == "rebalance" and (self.setting.limit is None or self.life.replicas == 1):
            self.rebalance(replicas)
        self.settle()

    def scale(self, replicas):
        leaving = [ticket for ticket in self.life.staying if ticket.call.lane.index >= replicas]
        self.change(lambda: self.env.scale("site", replicas), leaving)
        self.life.scale(replicas, leaving)

    def restart(self):
        self.change(lambda: self.env.restart("site"), self.life.staying)
        self.life.restart()

    def rebalance(self, number):
        """Set a balancer: standby replicas serve from now on."""
        balancer = BALANCERS[number % len(BALANCERS)]
        self.change(lambda: self.env.set_load_balancer("site", balancer), [])
        self.life.balance()

    def change(self, make, leaving):
        change = Change(make, leaving)
        self.deployed.changes.append((self.in_thread(change.run), change))

    @property
    def can_change(self):
        """Whether no change runs: a change waits for the one before it."""
        return self.life.state == "ready" and all(change.is_over(self.life) for _, change in self.deployed.changes)

    @property
    def can_restart(self):
        """Whether a restart is one step. With calls on several replicas, replicas restart one by one as calls end."""
        return not self.life.staying or not self.life.balanced or self.life.replicas == 1

    # -- the end

    @rule(whole=st.booleans(), at_once=st.booleans(), setting=settings())
    def stop_or_deploy(self, whole, at_once, setting):
        """Deploy a stopped service again; methods of the previous deployment may still hang. Otherwise stop it."""
        if self.life.state == "stopped":
            self.deploy(setting)
        elif self.life.state == "ready" or self.env is not None:
            self.stop(whole=whole, at_once=at_once)

    def stop(self, whole, at_once):
        """Stop the service, or also the environment. *at_once* gives accepted calls no time."""
        life, deployed = self.life, self.deployed
        if life.state == "draining":
            whole, at_once = True, False  # a second stop waits for the first one
        (life.end if at_once else life.drain)()
        stop = self.env.close if whole else deployed.task.stop
        deployed.closers.append(self.in_thread(stop, 0.0 if at_once else None))
        if whole:
            self.env = None
        self.settle()

    # -- threads that race

    @rule(
        callers=st.integers(2, 4),
        each=st.integers(1, 5),
        verb=st.sampled_from(("call", "submit", "cancel")),
        method=st.sampled_from(("work", "awork")),
        meanwhile=st.sampled_from(("nothing", "a method ends", "drain", "scale", "restart", "rebalance")),
        replicas=st.integers(1, 3),
    )
    @only_if(lambda self: self.life.state == "ready" and self.life.free and not self.life.waiting)
    def burst(self, callers, each, verb, method, meanwhile, replicas):  # noqa: PLR0913, PLR0917 - the drawn values
        """Several threads call at the same time, while a method ends, the service drains, or its replicas change."""
        deployment, life = self.deployed, self.life
        made = "call" if verb == "call" else "submit"
        if not life.fits(self.ticket(made, method, "echo")):  # the method that hangs uses the whole limit
            method = "awork"
        tickets = [[self.ticket(made, method, "echo") for _ in range(each)] for _ in range(callers)]
        deployment.tickets += (ticket for some in tickets for ticket in some)
        start = threading.Barrier(callers + 1)
        threads = [self.in_thread(_call_all, start, deployment.handle, some, verb == "cancel") for some in tickets]
        start.wait(PATIENCE)
        if meanwhile == "a method ends" and life.running:
            ended = life.running[0]
            life.finish(ended, "echo")
            ended.let_go("echo")
        elif meanwhile == "scale" and self.can_change and not life.running and self.setting.limit is None:
            self.scale(replicas)
        elif meanwhile == "restart" and self.can_change and self.can_restart:
            self.restart()
        elif meanwhile == "rebalance" and self.can_change and self.setting.limit is None:
            self.rebalance(replicas)
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
        # A caller cannot tell whether its call was refused, or was stopped while it waited for room.
        stopped = deployment.task.status()["metrics"].outcomes.get("stopped", 0) - life.outcomes["stopped"]
        self.check(0 <= stopped <= seen["stopped"], f"{stopped} calls of a burst are counted stopped")
        life.outcomes.update({"ok": seen["ok"], "cancelled": seen["cancelled"], "stopped": stopped})
        life.refused += seen["overloaded"] + seen["stopped"] - stopped
        if meanwhile == "drain":
            life.drain()
        self.settle()

    def check(self, holds, message):
        if not holds:
            self.fail(message)

    def fail(self, message):
        self.broken = True
        self.failures.append(message)
        raise AssertionError(message)

    def teardown(self):
        """Compare the end with the model too."""
        try:
            while self.hanging() and not self.broken:
                self.end_method(number=0, how="echo")
            if self.life.state == "ready" and not self.broken:
                self.stop(whole=True, at_once=False)
        finally:
            self.let_go()

    def let_go(self):
        """Leave no thread behind, whatever went wrong."""
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


class _NotedCall(Call):
    """A call that tells its ticket about itself."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        (ticket,) = self.args
        ticket.call = self


def _call_all(start, handle, tickets, cancel):
    """Run one thread of a burst."""
    start.wait(PATIENCE)
    for ticket in tickets:
        ticket.make(handle)
    futures = [ticket.future for ticket in tickets if ticket.future is not None]
    for future in futures[::2] if cancel else ():
        future.cancel()
    wait(futures, PATIENCE)
