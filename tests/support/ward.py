"""Services whose checks answer as a test says, and what `health` makes of them."""

from __future__ import annotations

import threading

INTERVAL = 10.0
TIMEOUT = 5.0


class Patient:
    """A replica that answers checks as the test has set for its index."""

    def __init__(self, answers):
        self.answers = answers

    def answer(self, hook):
        self.answers.asked.append((hook, self.ctx.replica_index, threading.current_thread().name))
        answer = self.answers.get((hook, self.ctx.replica_index), True)
        if isinstance(answer, BaseException):
            raise answer
        return answer() if callable(answer) else answer

    def index(self):
        return self.ctx.replica_index

    def run(self, function):
        return function()


class Alive(Patient):
    def check_health(self):
        return self.answer("check_health")


class Ready(Patient):
    def check_ready(self):
        return self.answer("check_ready")


class Both(Alive, Ready):
    pass


class Async(Patient):
    async def check_health(self):
        return self.answer("check_health")

    async def check_ready(self):
        return self.answer("check_ready")


class Answers(dict):
    def __init__(self):
        super().__init__()
        self.asked = []


class Ward:
    """One service watched by the monitor, in virtual time."""

    def __init__(self, env, clock, answers, events, until):
        self.env, self.clock, self.answers, self.events, self._until = env, clock, answers, events, until

    @property
    def monitor(self):
        monitors = self.env.task("svc")._monitors._monitors
        return next(monitor for choice, monitor in monitors if choice.id == "health")

    @property
    def states(self):
        return [each["state"] for each in self.env.get_service_status("svc")["replicas"]]

    @property
    def told(self):
        return [(event.kind.removeprefix("replica_"), event.replica, event.reason) for event in self.events]

    def advance(self, seconds):
        """Advance the clock, and let each due check be answered first unless the test holds it."""
        until = self.clock.monotonic() + seconds
        while self.clock.next_at() <= until:
            self.clock.run_until(self.clock.next_at())
            self.settle()
        self.clock.run_until(until)

    def settle(self):
        self._until(lambda: all(map(self._is_settled, tuple(self.monitor._probes.values()))))

    def _is_settled(self, probe):
        index = probe.replica.spec.index
        held = any(callable(answer) for (_, which), answer in self.answers.items() if which == index)
        return held or probe._round is None

    def seen(self, calls=6):
        return {self.env.service("svc").index() for _ in range(calls)}
