"""A target whose replicas a test can kill, and one service on it in virtual time."""

from __future__ import annotations

import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_local.target import LocalTarget
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import ServiceDeploymentConfig
from sage_plugins.hookspecs import hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.resilience.restarts import LONGEST_WAIT_S, MOST_STARTS
from sage_plugins.values import Placed, Refused, Registration

STARTUP_S = 1000.0


class Service:
    """Returns the index of its replica; the test chooses what its constructor does."""

    build = staticmethod(lambda _index: None)

    def __init__(self):
        self.build(self.ctx.replica_index)

    def index(self):
        return self.ctx.replica_index

    def run(self, function, *args):
        return function(*args)


class MortalTarget(LocalTarget):
    """Replicas in this process that a test can kill. The test chooses whether there is room for new ones."""

    def __init__(self):
        self.living = {}
        self.started = []
        self.stopped = []
        self.refused = None
        self.progress = None
        self.on_place = lambda: None

    def place(self, specs):
        self.on_place()
        if self.refused is not None:
            return [Refused(self.refused, {"node-1": "is gone"}) for _ in specs]
        return [Placed("node-1", "there is room") for _ in specs]

    def start(self, spec, at, events, clock):
        self.started.append(spec.id)
        replica = super().start(spec, at, events, clock)
        self.living[spec.id] = replica, events
        stop = replica.stop

        def stopping(grace):
            self.stopped.append(spec.id)
            return stop(grace)

        replica.stop = stopping
        if self.progress is not None:
            replica.progress = lambda *, timeout: self.progress(spec.id)
        return replica

    def kill(self, id, *running):
        """End a replica. Its running methods go on; the calls *running* are lost."""
        replica, events = self.living.pop(id)
        events.lost((), running, ConnectionError(f"{id} was killed"))
        return replica


class Stage:
    """One service on this target, in virtual time."""

    def __init__(self, environments, until, in_thread, capabilities, fields):
        self.in_thread = in_thread
        self.target = MortalTarget()
        self.clock = VirtualClock()
        self.events = []
        self.until = until
        target = self.target

        class Plugin:
            @hookimpl
            def sage_register_targets(self):
                declared = frozenset({"in_process", *capabilities})
                return [Registration("mortal", lambda _: target, "Of the tests", capabilities=declared)]

        self.service = type("Service", (Service,), {})
        registry = Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, Plugin())
        self.listen = lambda _event: None
        self.env = environments("test", registry=registry, clock=self.clock, on_event=self.hear)
        config = ServiceDeploymentConfig(**{"target": "mortal", "startup_timeout": STARTUP_S} | fields)
        self.env.register_service_with_config("svc", self.service, deployment_config=config)
        self.env.deploy()
        self.handle = self.env.service("svc")
        self.task = self.env.task("svc")

    def hear(self, event):
        self.events.append(event)
        self.listen(event)

    @property
    def status(self):
        return self.env.get_service_status("svc")

    def counted(self, name):
        """Return a metric's values, without those that are 0."""
        return {labels: number for labels, number in self.env.metrics()["svc"][name].values.items() if number}

    @property
    def ids(self):
        """The state of each replica, by its id."""
        return {replica["id"]: replica["state"] for replica in self.status["replicas"]}

    @property
    def kinds(self):
        return [event.kind for event in self.events]

    def reason(self, kind):
        """Return the reason of the latest event of this kind."""
        return [event.reason for event in self.events if event.kind == kind][-1]

    def kill(self, id, *running):
        self.target.kill(id, *running)

    def ready(self, *ids):
        """Wait until there are exactly these replicas, all ready."""
        self.until(lambda: self.ids == dict.fromkeys(ids, "ready"))

    def pass_wait(self):
        """Advance the clock to the next start."""
        self.until(lambda: self.clock.next_at() <= self.clock.monotonic() + LONGEST_WAIT_S)
        self.clock.run_until(self.clock.next_at())

    def loop(self, id="svc#0"):
        """Kill a replica and let its replacements fail until it is in a crash loop."""

        def fail(_index):
            raise LookupError("no database")

        self.service.build = staticmethod(fail)
        self.kill(id)
        for _ in range(MOST_STARTS - 1):
            self.pass_wait()
        self.until(lambda: "crash_loop" in self.ids.values())

    def heal(self):
        self.service.build = staticmethod(lambda _index: None)


BALANCED = {"load_balancing": True, "load_balancer": "round_robin"}
