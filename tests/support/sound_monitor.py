"""A monitor that keeps every rule, to be broken in one of them."""

from __future__ import annotations

import collections

from sage_plugins.interfaces import Family, QuietMonitor
from sage_plugins.values import Outcome


class SoundRecorder:
    """One counter for each worker."""

    def __init__(self, who):
        self.who = who
        self.counters = []

    def writer(self):
        counter = collections.Counter()
        self.counters.append(counter)

        def record(_method, outcome, _wait_s, _run_s):
            counter[outcome] += 1

        return record

    def snapshot(self):
        return dict(sum(map(collections.Counter.copy, tuple(self.counters)), collections.Counter()))

    def close(self):
        pass


class Sound(QuietMonitor):
    """A correct monitor: it counts calls and keeps events."""

    Recorder = SoundRecorder

    def __init__(self, _options=None):
        self.latest = collections.deque(maxlen=100)
        self.refusals = collections.Counter()

    def recorder(self, who, _methods):
        return self.Recorder(who)

    def refused(self, _method, reason):
        self.refusals[reason] += 1

    def event(self, event):
        self.latest.append({"kind": event.kind, "reason": event.reason, "replica": event.replica})

    def summary(self, snapshots):
        total = sum(map(collections.Counter, snapshots), collections.Counter())
        return {
            "outcomes": {Outcome.NAMES[outcome]: number for outcome, number in total.items()},
            "latest": tuple(self.latest),
        }

    def merge(self, snapshots):
        return dict(sum(map(collections.Counter, snapshots), collections.Counter()))

    def attach(self, _service):
        pass

    def families(self, snapshots):
        values = {(name,): number for name, number in self.summary(snapshots)["outcomes"].items()}
        return [Family("sound_calls_total", "counter", "Calls.", ("outcome",), values)]
