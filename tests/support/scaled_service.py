"""A service in virtual time, scaled by the autoscaler's decisions alone."""

from __future__ import annotations

from sage_deploy_autoscalers.target_ongoing import TargetOngoing
from sage_plugins.interfaces import Load
from sage_plugins.resilience.autoscaling import AutoscaleSettings, Scaler

#: Seconds between two looks of the autoscaler.
LOOK = 1.0


def load(now, replicas, ongoing=0, queued=0, **more):
    slots, wait, ready = more.get("slots", 1), more.get("wait", 0.0), more.get("ready")
    ready = replicas if ready is None else ready
    return Load(now, replicas, ready, ready * slots, ongoing, queued, wait)


class Stage:
    """A service in virtual time. Its replicas start and stop at once."""

    def __init__(self, *, slots=1, policy=None, **autoscale):
        self.settings = AutoscaleSettings.of(autoscale)
        self.scaler = Scaler(self.settings, policy or TargetOngoing().decide, "it")
        self.now, self.replicas, self.slots = 1000.0, self.settings.initial, slots
        self.changes = []  # (when, how many, why) of each decision

    def look(self, calls, *, busy_at=-1e9, wait=0.0):
        """Look once at so many calls, carry the decision out and return it."""
        ongoing = min(calls, self.replicas * self.slots)
        shown = load(self.now, self.replicas, ongoing, calls - ongoing, slots=self.slots, wait=wait)
        decision = self.scaler.look(shown, busy_at)
        if decision is not None:
            self.replicas = decision.replicas
            self.changes.append((self.now - 1000.0, *decision))
        self.now += LOOK
        return decision

    def hold(self, calls, seconds, **more):
        """Keep so many calls for so many seconds. Return the numbers of replicas decided meanwhile."""
        before = len(self.changes)
        for _ in range(int(seconds / LOOK)):
            self.look(calls, **more)
        return [number for _, number, _ in self.changes[before:]]
