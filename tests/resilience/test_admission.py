"""Admission estimates how long calls take, and refuses those that would be too late."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_plugins.resilience.admission import Admission


def seen(seconds, times=20, now=0.0):
    admission = Admission()
    for _ in range(times):
        admission.ended(0, seconds, now)
    return admission


def test_nothing_is_refused_before_anything_was_seen():
    """Before any call has ended, nothing is refused."""
    admission = Admission()
    assert not admission.is_too_late(0, 0.0, 1.0, 0.999)
    assert admission.why_too_late(0, 0.0, (1.0, 1.0), (1000, 1)) is None
    assert admission.seconds_for(1, 1, 0.0) is None


def test_a_call_is_refused_if_those_before_it_take_longer_than_it_has():
    """A call is refused if the calls before it take longer than the time it has."""
    admission = seen(0.125)
    assert admission.why_too_late(0, 0.0, (1.0, 1.0), (7, 1)) is None
    found = admission.why_too_late(0, 0.0, (1.0, 1.0), (8, 1))
    assert found == (1.0, 0.875)
    assert admission.why_too_late(0, 0.0, (1.0, 1.0), (8, 2)) is None, "two slots take half the time"
    assert admission.why_too_late(0, 0.0, (0.5, 1.0), (5, 1)) == (0.625, 0.5), "it may not wait so long"
    assert admission.why_too_late(0, 0.0, (inf, inf), (10_000, 1)) is None


def test_a_call_is_too_late_with_less_time_than_its_method_needs():
    """A call is too late if it has less time left than its method needs."""
    admission = seen(0.125)
    assert not admission.is_too_late(0, 0.0, 1.0, 0.875)
    assert admission.is_too_late(0, 0.0, 1.0, 0.9)
    assert not admission.is_too_late(1, 0.0, 1.0, 0.9), "nothing is known of another method"


def test_a_call_that_has_waited_less_than_half_of_its_time_is_never_too_late():
    """
    A call that has waited less than half of its time is never too late. Its run can correct a wrong estimate.
    """
    admission = seen(30.0)
    assert not admission.is_too_late(0, 0.0, 1.0, 0.5)
    assert admission.is_too_late(0, 0.0, 1.0, 0.51)


def test_estimates_are_forgotten_and_made_again():
    """Estimates expire, and the first duration after that counts alone."""
    admission = seen(0.125)
    assert admission.is_too_late(0, 0.0, 1.0, 0.9)
    assert not admission.is_too_late(0, 1.1, 2.1, 2.0)
    admission.ended(0, 0.01, 2.0)
    assert not admission.is_too_late(0, 1.1, 2.1, 2.05), "the first duration after that stands alone"


def test_an_overload_is_news_after_a_calm():
    """An overload is reported again only after a pause without refusals."""
    admission = Admission()
    assert [admission.begins_overload(now) for now in (0.0, 1.0, 10.9, 21.0)] == [True, False, False, True]


class Told:
    """The durations of one method, or of all, and the estimate that RFC 6298's formulas give for them."""

    def __init__(self):
        self.mean = self.deviation = 0.0
        self.at = -inf

    def need(self):
        return self.mean + 2 * self.deviation

    def holds(self, now):
        return now - self.at <= max(1.0, 8 * self.need())

    def add(self, seconds, now):
        if self.holds(now):
            off = seconds - self.mean
            self.mean += off / 8
            self.deviation += (abs(off) - self.deviation) / 4
        else:
            self.mean, self.deviation = seconds, 0.0
        self.at = now


@settings(max_examples=300, deadline=None)
@given(
    ended=st.lists(
        st.tuples(
            st.integers(0, 1), st.sampled_from([0.01, 0.1, 0.3, 2.0]), st.sampled_from([0.0, 0.1, 0.9, 3.0, 20.0])
        ),
        min_size=1,
        max_size=12,
    ),
    later=st.sampled_from([0.0, 0.5, 1.5, 10.0]),
    waiting=st.integers(0, 20),
    slots=st.integers(0, 3),
    times=st.tuples(st.sampled_from([0.05, 0.5, 2.0]), st.sampled_from([0.05, 0.5, 2.0])),
)
def test_what_is_refused_follows_from_the_durations_that_were_seen(ended, later, waiting, slots, times):
    """Refusals follow from smoothed means and deviations, as for a round-trip time. Old durations do not count."""
    admission, methods, every, now = Admission(), [Told(), Told()], Told(), 100.0
    for method, seconds, pause in ended:
        now += pause
        admission.ended(method, seconds, now)
        methods[method].add(seconds, now)
        every.add(seconds, now)
    now += later
    wait = waiting * every.mean / slots if slots and every.holds(now) else None
    assert admission.seconds_for(waiting, slots, now) == (None if wait is None else pytest.approx(wait))
    expires, deadline = now + times[0], now + times[1]
    for method, told in enumerate(methods):
        need = min(told.need(), times[1] / 2) if told.holds(now) else 0.0
        assert admission.is_too_late(method, now, deadline, now) is (now + need > deadline)
        late = min(told.need(), (times[1] + 0.3) / 2) if told.holds(now) else 0.0
        assert admission.is_too_late(method, now - 0.3, deadline, now) is (now + late > deadline)
        time = min(expires, deadline - need) - now
        found = admission.why_too_late(method, now, (expires, deadline), (waiting, slots))
        if not waiting or wait is None or wait <= time:
            assert found is None
        else:
            assert found == pytest.approx((wait, time))
