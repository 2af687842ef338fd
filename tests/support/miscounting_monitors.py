"""Monitors that miscount calls: each breaks one rule."""

from __future__ import annotations

import collections
import weakref

from sage_plugins.values import Outcome
from sound_monitor import Sound, SoundRecorder

# -- optional members --------------------------------------------------------------------------------------------------


class CannotMerge(Sound):
    """It declares `merge` but does not have it."""

    merge = None


class CannotAttach(Sound):
    """It declares `attach` but does not have it."""

    attach = None


class CannotExport(Sound):
    """It declares `families` but does not have it."""

    families = None


class Mislabels(Sound):
    """The label values of its metrics do not match the declared labels."""

    def families(self, snapshots):
        return [family._replace(labels=()) for family in super().families(snapshots)]


# -- what is counted ---------------------------------------------------------------------------------------------------


class CountsTwice(Sound):
    """It counts each call twice."""

    class Recorder(SoundRecorder):
        def writer(self):
            record = super().writer()
            return lambda *call: [record(*call), record(*call)]


class LosesTimeouts(Sound):
    """It does not count calls that timed out."""

    class Recorder(SoundRecorder):
        def writer(self):
            record = super().writer()
            return lambda method, outcome, *times: outcome == Outcome.TIMEOUT or record(method, outcome, *times)


class CountsLate(Sound):
    """It counts a call only when the next one ends."""

    class Recorder(SoundRecorder):
        def writer(self):
            record, before = super().writer(), []

            def late(*call):
                if before:
                    record(*before.pop())
                before.append(call)

            return late


class CountsTheGivenUpTwice(Sound):
    """It counts a call that was given up while it ran as a waiting call too."""

    class Recorder(SoundRecorder):
        def writer(self):
            record = super().writer()
            twice = self.who.replica is None
            return lambda *call: [record(*call) for _ in range(2 if twice and call[3] else 1)]


class ForgetsWhenClosed(Sound):
    """When its recorder is closed, the counts are lost."""

    class Recorder(SoundRecorder):
        def close(self):
            self.counters.clear()


class FirstOnly(Sound):
    """It reports the counts of the first replica as those of all replicas."""

    def summary(self, snapshots):
        return super().summary(snapshots[:1])


class SumsItsOwn(Sound):
    """It ignores the snapshots of the replicas and sums up only what its own recorders counted."""

    def __init__(self, _options=None):
        super().__init__()
        self.recorders = []

    def recorder(self, who, methods):
        self.recorders.append(super().recorder(who, methods))
        return self.recorders[-1]

    def summary(self, _snapshots):
        return super().summary([each.snapshot() for each in self.recorders])


class OneCell(Sound):
    """All workers share one counter without a lock, so updates get lost."""

    class Recorder(SoundRecorder):
        def writer(self):
            self.counters = self.counters or [collections.Counter()]
            (counter,) = self.counters

            def record(_method, outcome, _wait_s, _run_s):
                before = counter[outcome]
                for _ in range(20):
                    pass
                counter[outcome] = before + 1

            return record


class CountsRefused(Sound):
    """It counts a refused call as an error."""

    def summary(self, snapshots):
        return super().summary([*snapshots, {Outcome.ERROR: self.refusals.total()}])


class Mortal(Sound):
    """When a worker ends, its counts are lost."""

    class Recorder(SoundRecorder):
        def __init__(self, who):
            super().__init__(who)
            self.alive = []

        def writer(self):
            record = super().writer()
            self.alive.append((weakref.ref(record), self.counters[-1]))
            return record

        def snapshot(self):
            self.counters = [counter for worker, counter in self.alive if worker() is not None]
            return super().snapshot()


# -- counts of replicas that left --------------------------------------------------------------------------------------


class MergesTheLatest(Sound):
    """Merging keeps only the last snapshot."""

    def merge(self, snapshots):
        return snapshots[-1]


class KeepsParts(Sound):
    """Each merge adds an entry, so its memory grows without bound."""

    def merge(self, snapshots):
        merges = sum(len(snapshot) for snapshot in snapshots)
        return {Outcome.OK: 0} | dict.fromkeys(range(-merges, 0), 0) | super().merge(snapshots)
