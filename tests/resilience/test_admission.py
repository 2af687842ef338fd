"""What is known of the time that calls take, and which calls are turned away because of it."""

from __future__ import annotations

from math import inf

from sage_plugins.resilience.admission import Admission


def seen(seconds, times=20, now=0.0):
    admission = Admission()
    for _ in range(times):
        admission.ended(0, seconds, now)
    return admission


def test_nothing_is_refused_before_anything_was_seen():
    admission = Admission()
    assert not admission.is_too_late(0, 0.0, 1.0, 0.999)
    assert admission.excess(0, 0.0, (1.0, 1.0), (1000, 1)) is None
    assert admission.seconds_for(1, 1, 0.0) is None


def test_a_call_is_refused_if_those_before_it_take_longer_than_it_has():
    admission = seen(0.125)
    assert admission.excess(0, 0.0, (1.0, 1.0), (7, 1)) is None
    found = admission.excess(0, 0.0, (1.0, 1.0), (8, 1))
    assert found == (1.0, 0.875)
    assert admission.excess(0, 0.0, (1.0, 1.0), (8, 2)) is None, "two slots take half the time"
    assert admission.excess(0, 0.0, (0.5, 1.0), (5, 1)) == (0.625, 0.5), "it may not wait so long"
    assert admission.excess(0, 0.0, (inf, inf), (10_000, 1)) is None


def test_a_call_is_too_late_with_less_time_than_its_method_needs():
    admission = seen(0.125)
    assert not admission.is_too_late(0, 0.0, 1.0, 0.875)
    assert admission.is_too_late(0, 0.0, 1.0, 0.9)
    assert not admission.is_too_late(1, 0.0, 1.0, 0.9), "nothing is known of another method"


def test_a_call_that_has_waited_less_than_half_of_its_time_is_never_too_late():
    """So what it takes corrects an estimate that is wrong."""
    admission = seen(30.0)
    assert not admission.is_too_late(0, 0.0, 1.0, 0.5)
    assert admission.is_too_late(0, 0.0, 1.0, 0.51)


def test_estimates_are_forgotten_and_made_anew():
    admission = seen(0.125)
    assert admission.is_too_late(0, 0.0, 1.0, 0.9)
    assert not admission.is_too_late(0, 1.1, 2.1, 2.0)
    admission.ended(0, 0.01, 2.0)
    assert not admission.is_too_late(0, 1.1, 2.1, 2.05), "the first duration after that stands alone"


def test_an_overload_is_news_after_a_calm():
    admission = Admission()
    assert [admission.is_news(now) for now in (0.0, 1.0, 10.9, 21.0)] == [True, False, False, True]
