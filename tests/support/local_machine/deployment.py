"""Compares a deployed service with its model."""

from __future__ import annotations

from collections import Counter

from sage_plugins.errors import DeployError

__all__ = ["Change", "Deployment"]

#: As in `values.Outcome`, without `died`: replicas on target `local` die only with their process.
OUTCOMES = ("ok", "error", "timeout", "cancelled", "stopped")


class Change:
    """A change of the replicas that runs in its own thread."""

    def __init__(self, make, leaving):
        self.leaving = leaving  # calls whose end it waits for, unless they are given up
        self.error = None
        self._make = make

    def run(self):
        try:
            self._make()
        except BaseException as error:  # noqa: BLE001 - the comparison checks it
            self.error = error

    def is_over(self, life):
        """Whether the change must have ended."""
        return all(ticket not in life.leaving or ticket.outcome is not None for ticket in self.leaving)


class Deployment:
    """A deployed service, its model, and their comparison."""

    def __init__(self, env, witness, life):
        self.life = life
        self.witness = witness
        self.tickets = []
        self.closers = []  # threads that stop it
        self.changes = []  # threads that change its replicas, each with its change
        self._counted = Counter()
        self.handle = env.service("site")
        self.task = env.task("site")

    def differences(self):
        """Return the differences from the model that are final, and those that may still disappear."""
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
                router._queue.free + len(life.queue),
                life.setting.queue_size,
            ),
            ("threads wait for its end", closing, len(self.closers) if life.state == "draining" else 0),
            ("", self.task.state, life.state),
            ("is whether it accepts calls", self._accepts(), life.state == "ready"),
            *self._instances(),
            *self._changes(never),
        ):
            if found != wanted:
                not_yet.append(f"{found} {what}; the model says {wanted}")
        if life.state != "stopped":
            held = sum(lane.inflight for lane in router.lanes)
            if held != len(life.staying):
                not_yet.append(f"{held} slots are taken; the model says {len(life.staying)}")
        return never, not_yet

    def _accepts(self):
        """The task's state changes shortly before its router's. Under the router's lock, the answer is exact."""
        router = self.task._router
        with router._lock:
            return router._closing.stopped is None and router._closing.stopped_to_outsiders is None

    def _changes(self, never):
        """A change of replicas waits only for their calls, and fails only if the service stops meanwhile."""
        for thread, change in self.changes:
            if change.error is not None and not (isinstance(change.error, DeployError) and self.life.state != "ready"):
                never.append(f"a change of the replicas failed: {change.error!r}")
            yield "is whether a change of the replicas goes on", thread.is_alive(), not change.is_over(self.life)
        if self.life.state == "ready" and not self.life.leaving:
            status, each = self.task.status(), self.life.setting.slots_each
            slots = [replica["slots"] for replica in status["replicas"]]
            yield "are the slots of the replicas", slots, [each] * self.life.replicas
            yield "replicas are to be well", status["health"]["replicas"], self.life.replicas

    def _instances(self):
        """Yield the expected number of instances. While methods hang, the time of the last stop hook is unknown."""
        if self.life.leaving or (self.life.state == "stopped" and self.life.running):
            return
        left = self.witness.built - self.witness.stopped.total()
        yield "instances are not stopped", left, 0 if self.life.state == "stopped" else self.life.replicas

    def _compare(self, ticket, never, not_yet):
        callbacks = ticket.callbacks
        seen, published, wanted = ticket.seen(), ticket.published(), ticket.outcome
        runs = ticket in self.life.running
        accepted = wanted is None and ticket not in self.life.parked
        if accepted and ticket.has_future_soon and ticket.future is None:
            not_yet.append(f"{ticket} has not returned to its caller")
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
        counted = Counter(metrics.outcomes, in_all=metrics.request_count, refused=metrics.rejected_count)
        never += [
            f"{what} went back from {n} to {counted[what]}" for what, n in self._counted.items() if n > counted[what]
        ]
        self._counted = counted
        for what, found, wanted in (
            *((outcome, metrics.outcomes.get(outcome, 0), self.life.outcomes[outcome]) for outcome in OUTCOMES),
            ("in all", metrics.request_count, self.life.outcomes.total()),
            ("refused", metrics.rejected_count, self.life.refused),
        ):
            if found != wanted:
                (never if found > wanted else not_yet).append(f"{found} calls are counted {what}; {wanted} ended so")
        # A replica that has left is no longer asked for its abandoned calls.
        gone = sum(ticket in self.life.leaving for ticket in self.life.abandoned)
        if not 0 <= len(self.life.abandoned) - metrics.abandoned_count <= gone:
            not_yet.append(f"{metrics.abandoned_count} calls are counted abandoned; {len(self.life.abandoned)} are")
