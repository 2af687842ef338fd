"""Monitors with faulty recorders, events, summaries or ends: each breaks one rule."""

from __future__ import annotations

import collections
import queue
import threading
import time

from sound_monitor import Sound, SoundRecorder

# -- recorders ---------------------------------------------------------------------------------------------------------


class Absent(Sound):
    """It declares that it records calls but has no recorder."""

    def recorder(self, _who, _methods):
        return None


class Narrow(Sound):
    """Its histogram ends at one hour."""

    class Recorder(SoundRecorder):
        def writer(self):
            record = super().writer()

            def narrow(method, outcome, wait_s, run_s):
                range(60)[int((wait_s + run_s) / 60)]
                record(method, outcome, wait_s, run_s)

            return narrow


class Stationary(Sound):
    """Its snapshot cannot be pickled."""

    class Recorder(SoundRecorder):
        def snapshot(self):
            return collections.defaultdict(lambda: 0, super().snapshot())


class Torn(Sound):
    """It takes its snapshot while workers change the data."""

    class Recorder(SoundRecorder):
        def writer(self):
            super().writer()
            durations = self.counters[-1]

            def record(_method, outcome, wait_s, run_s):
                durations[wait_s + run_s + outcome] = outcome

            return record

        def snapshot(self):
            found = collections.Counter()
            for counter in self.counters:
                for duration in counter:
                    found[counter[duration]] += 1
            return found


# -- events and refused calls ------------------------------------------------------------------------------------------


class Blocking(Sound):
    """It puts events into a bounded queue, which gets full."""

    def __init__(self, _options=None):
        super().__init__()
        self.queue = queue.Queue(maxsize=100)

    def event(self, event):
        # The timeout lets the test's thread end.
        self.queue.put(event, timeout=1.0)


class BlockingRefusals(Sound):
    """It writes each refused call down, which takes time."""

    def refused(self, method, reason):
        super().refused(method, reason)
        time.sleep(0.001)


class Reversed(Sound):
    """It keeps the latest event first."""

    def event(self, event):
        self.latest.appendleft({"kind": event.kind, "reason": event.reason})


class Repeating(Sound):
    """It keeps each event twice."""

    def event(self, event):
        super().event(event)
        super().event(event)


class Hoarding(Sound):
    """It keeps all events, without a bound."""

    def __init__(self, _options=None):
        super().__init__()
        self.latest = collections.deque()


class DeafToReplicas(Sound):
    """It ignores the events of replicas."""

    def event(self, event):
        if not event.kind.startswith("replica_"):
            super().event(event)


class DeafToChanges(Sound):
    """It ignores the events of the service."""

    def event(self, event):
        if event.kind.startswith("replica_"):
            super().event(event)


# -- summaries and the end ---------------------------------------------------------------------------------------------


class NeedsCalls(Sound):
    """Its summary needs at least one snapshot."""

    def summary(self, snapshots):
        first, *others = snapshots
        return super().summary([first, *others])


class Draining(Sound):
    """Reading the summary removes the events."""

    def summary(self, snapshots):
        summary = super().summary(snapshots)
        self.latest.clear()
        return summary


class Locking(Sound):
    """A lock that is not reentrant guards the events. The monitor waits for it for longer than the suite does."""

    def __init__(self, _options=None):
        super().__init__()
        self.lock = threading.Lock()
        self.tired = False

    def event(self, event):
        with self.lock:
            super().event(event)

    def summary(self, snapshots):
        if not self.tired and self.lock.acquire(timeout=0.6):
            self.lock.release()
        else:
            self.tired = True
        return super().summary(snapshots)


SHARED = collections.deque(maxlen=100)


class OneForAll(Sound):
    """All services share one list of events."""

    def __init__(self, _options=None):
        super().__init__()
        self.latest = SHARED


class ClosesOnce(Sound):
    """The second `close` raises."""

    def close(self):
        del self.latest_file

    latest_file = property(lambda self: None)


class ClosesForGood(Sound):
    """Closing deletes its events."""

    def close(self):
        self.latest.clear()


class Rude(Sound):
    """It raises at each event."""

    def event(self, event):
        super().event(event)
        raise RuntimeError("not now")


class Late(Sound):
    """Its summary lacks the events before the first call."""

    def summary(self, snapshots):
        summary = super().summary(snapshots)
        return summary if summary["outcomes"] else {"outcomes": {}}


class Boasting(Sound):
    """It declares an unknown capability."""
