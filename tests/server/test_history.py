"""The metrics of the last 24 hours, in steps of 1, 10 and 60 seconds."""

from __future__ import annotations

import sys
import threading

import pytest

from sage_deploy_server.recording import recorder as recording
from sage_deploy_server.recording.history import History
from sage_deploy_server.recording.recorder import Recorder
from sage_deploy_server.recording.rings import FIELDS
from sage_deploy_server.recording.sample import Sampler
from sage_plugins.interfaces.families import Family
from sage_plugins.metrics import HISTOGRAM_EDGES_S

EPOCH = 1_000_000


class Measured:
    """A service with metrics that the test sets, and its clock."""

    def __init__(self):
        self.now = 0.0
        self.epoch = EPOCH
        self.calls = {"ok": 0, "error": 0}
        self.buckets = [0] * (len(HISTOGRAM_EDGES_S) + 1)
        self.seconds = 0.0
        self.queue = 0
        self.sampler = Sampler()
        self.history = History(lambda: self.now, lambda: self.epoch + self.now)

    def call(self, seconds, number=1, outcome="ok"):
        """Count *number* calls that ended after that time."""
        self.calls[outcome] += number
        self.buckets[next((at for at, edge in enumerate(HISTOGRAM_EDGES_S) if seconds <= edge), -1)] += number
        self.seconds += seconds * number

    def families(self):
        requests = {("add", outcome): number for outcome, number in self.calls.items()}
        durations = {("add",): (self.seconds, *self.buckets)}
        found = (
            Family("sage_requests_total", "counter", "", ("method", "outcome"), requests),
            Family("sage_request_duration_seconds", "histogram", "", ("method",), durations, HISTOGRAM_EDGES_S),
        )
        return {each.name: each for each in found}

    def overview(self):
        return {"queue": self.queue, "replicas": [{"inflight": 2, "slots": 4, "abandoned": 0}]}

    def record(self, after=1.0, **others):
        self.now += after
        counts = {"kv": self.families(), **others}
        self.history.record(self.sampler.take(dict.fromkeys(counts, self.overview()), counts))

    def last(self, field, seconds=900, service="kv"):
        return self.history.read(seconds, service)[field][-1]


@pytest.fixture
def measured():
    return Measured()


def test_a_row_is_about_the_time_since_the_row_before(measured):
    """Rates and percentiles of a row cover only the calls that ended since the row before."""
    measured.call(0.1, 50)
    measured.record()
    assert measured.last("rate") is None
    measured.call(8.0, 4, "error")
    measured.record(2.0)
    assert (measured.last("rate"), measured.last("error_rate")) == (2.0, 2.0)
    assert 5.0 < measured.last("p50") <= 8.0  # all four are in the bucket from 5 to 10 s
    measured.record()
    assert (measured.last("rate"), measured.last("p50"), measured.last("slots")) == (0.0, None, 4.0)


@pytest.mark.parametrize("seconds", [3e-6, 0.0004, 0.003, 0.03, 3.0])
def test_percentiles_are_near_what_calls_took_that_took_the_same(measured, seconds):
    """If all calls take the same time, the percentiles are near it and rise, even far below the first bucket's edge."""
    measured.record()
    measured.call(seconds, 1000)
    measured.record()
    p50, p95, p99 = (measured.last(f"p{share}") for share in (50, 95, 99))
    assert p50 <= p95 <= p99
    assert seconds / 3 < p50 < 2.5 * seconds


def test_a_few_slow_calls_are_in_the_last_percentile_only(measured):
    """A few slow calls change only the last percentile."""
    measured.record()
    measured.call(0.004, 980)
    measured.call(1.5, 20)
    measured.record()
    assert measured.last("p95") < 0.006
    assert 1.0 <= measured.last("p99") <= 2.0


def test_where_nothing_was_recorded_nothing_is_known(measured):
    """A minute without samples is a gap at its right place."""
    for _ in range(3):
        measured.record()
    measured.record(60)
    shown = measured.history.read(90)
    assert shown["every"] == 1
    assert [time for time, slots in zip(shown["times"], shown["slots"], strict=True) if slots is not None] == [
        EPOCH + 1,
        EPOCH + 2,
        EPOCH + 3,
        EPOCH + 63,
    ]
    assert {len(values) for name, values in shown.items() if name != "every"} == {90}


def test_a_wall_clock_that_is_set_moves_all_times_and_no_distance(measured):
    """If the wall clock is set, all times move by the same amount."""
    measured.record()
    measured.epoch += 3600
    measured.record()
    times = measured.history.read(3)["times"]
    assert times == [EPOCH + 3600, EPOCH + 3601, EPOCH + 3602]


def test_what_is_older_than_is_kept_is_not_taken_for_new(measured):
    """Values older than the history are not shown as new ones, although their memory is reused."""
    for _ in range(3):
        measured.record()
    measured.record(900)
    assert [slots for slots in measured.history.read(900)["slots"] if slots is not None] == [4.0]


def test_who_is_late_leaves_no_gap(measured):
    """Samples that come slightly late leave no gap, although they skip a second now and then."""
    measured.record(1.9)
    measured.record(1.1)
    assert measured.history.read(3)["slots"] == [4.0, 4.0, 4.0]


def test_looks_that_follow_each_other_at_once_make_one_row(measured):
    """Samples that follow each other at once make one row: a rate over milliseconds would be useless."""
    measured.record(0.99)
    measured.record(1.0)
    measured.call(0.1, 100)
    measured.record(0.02)
    assert measured.last("rate") is None
    measured.record(0.98)
    assert measured.last("rate") == 100.0


@pytest.mark.parametrize(("seconds", "every"), [(900, 1), (901, 10), (3600, 10), (10_800, 10), (86_400, 60)])
def test_a_longer_past_is_shown_in_longer_steps(measured, seconds, every):
    """A longer history is shown in longer steps, with the right rates."""
    for _ in range(200):
        measured.call(0.01, 5)
        measured.record()
    shown = measured.history.read(seconds)
    assert shown["every"] == every
    assert len(shown["times"]) == round(seconds / every)
    assert shown["times"][1] - shown["times"][0] == every
    rates = [rate for rate in shown["rate"] if rate is not None]
    assert rates
    assert all(rate == 5.0 for rate in rates)


def test_all_together_are_the_sum(measured):
    """The values for all services are the sum, and the percentiles are those of all calls, not a mean."""
    other = Measured()
    measured.record(other=other.families())
    measured.call(0.004, 90)
    other.call(1.5, 10)
    measured.record(other=other.families())
    assert measured.last("rate", service=None) == 100.0
    assert measured.last("slots", service=None) == 8.0
    assert measured.last("p50", service=None) < 0.006
    assert 1.0 <= measured.last("p95", service=None) <= 2.0


def test_a_service_without_calls_hides_no_percentiles_of_others(measured):
    """A service without calls does not hide the percentiles of others, nor those of its own first calls."""
    idle = Measured().families()
    name = "sage_request_duration_seconds"
    idle[name] = idle[name]._replace(values={})
    measured.record(other=idle)
    first = Measured()
    first.call(1.5, 10)
    measured.call(1.5, 10)
    measured.record(other=idle)
    assert 1.0 <= measured.last("p50", service=None) <= 2.0
    measured.record(other=first.families())
    assert 1.0 <= measured.last("p50", service="other") <= 2.0


def test_a_service_that_is_gone_is_forgotten_and_one_that_comes_begins_unknown(measured):
    """A service that is gone is forgotten; one that returns starts without a rate."""
    measured.record(other=measured.families())
    measured.record(other=measured.families())
    assert measured.last("rate", service="other") == 0.0
    measured.record()
    assert set(measured.history.read(900, "other")["slots"]) == {None}
    measured.record(other=measured.families())
    assert (measured.last("rate", service="other"), measured.last("slots", service="other")) == (None, 4.0)


def test_calls_are_read_again_only_if_one_has_ended():
    """The counts of calls are computed again only if a call has ended, so sampling idle services costs little."""
    sampler, measured = Sampler(), Measured()
    families = measured.families()
    first, again, added_up = (
        sampler.take({"kv": measured.overview()}, {"kv": each})["kv"]
        for each in (families, families, measured.families())
    )
    assert first.call_counts is again.call_counts is added_up.call_counts
    measured.call(0.1)
    assert sampler.take({"kv": measured.overview()}, {"kv": measured.families()})["kv"].call_counts.calls == 1


def test_counts_that_begin_again_are_no_negative_rate(measured):
    """If counts start again at zero, the rate is 0, not negative."""
    measured.call(0.1, 50)
    measured.record()
    measured.calls, measured.buckets = {"ok": 1, "error": 0}, [0] * len(measured.buckets)
    measured.record()
    assert (measured.last("rate"), measured.last("p50")) == (0.0, None)


def test_the_past_of_fifty_services_fits_into_16_mib():
    """The history of 50 services over 24 hours takes at most 16 MiB, and does not grow."""
    measured = Measured()
    measured.record(**{f"service-{number}": measured.families() for number in range(49)})
    size = sum(
        sys.getsizeof(part)
        for tier in measured.history._tiers
        for ring in tier._rings.values()
        for part in (ring._numbers, ring._values)
    )
    assert size <= 16 * 2**20
    assert len(FIELDS) == 8


def test_somebody_who_looks_later_sees_what_was_before(monkeypatch):
    """The history is sampled regularly without requests, also after a sample failed, until it is closed."""
    monkeypatch.setattr(recording, "_INTERVAL_S", 0.001)
    looks = threading.Semaphore(0)

    class Operations:
        def overview(self):
            looks.release()
            raise RuntimeError("no overview")

    recorder = Recorder(Operations())
    recorder.start()
    for _ in range(3):
        assert looks.acquire(timeout=20)
    recorder.close()
    recorder.close()
    assert not recorder._thread.is_alive()


def test_the_history_of_a_real_service_is_shown(ask, env):
    """The history of a real service is served."""
    env.service("desk").add(1, 2)
    ask("GET", "/api/v1/services")
    status, shown, _ = ask("GET", "/api/v1/history?seconds=900&service=desk")
    assert status == 200
    assert set(shown) == {"every", "times", *FIELDS}
    assert max(slots or 0 for slots in shown["slots"]) > 0
    assert ask("GET", "/api/v1/history")[1]["every"] == 1


@pytest.mark.parametrize(
    ("query", "status"), [("seconds=0", 400), ("seconds=86401", 400), ("seconds=x", 400), ("service=desc", 404)]
)
def test_a_history_that_there_is_not_is_refused(ask, query, status):
    """A history of a wrong length or an unknown service is refused."""
    assert ask("GET", f"/api/v1/history?{query}")[0] == status
