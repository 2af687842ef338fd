"""Virtual time advances only on request, and timers run in the same order as on a real clock."""

from __future__ import annotations

from math import inf, nan

import pytest

from sage_deploy_testing.doubles.virtual_clock import VirtualClock


def test_timers_run_in_order_of_time_and_ties_in_order_of_setting():
    """Timers run in order of time. Timers for the same time run in the order in which they were set."""
    clock, seen = VirtualClock(start=0), []
    for name, when in (("c", 2), ("a", 1), ("d", 2), ("b", 1.5)):
        clock.call_at(when, lambda name=name: seen.append((name, clock.monotonic())))
    clock.advance(1.75)
    assert seen == [("a", 1), ("b", 1.5)]
    assert clock.monotonic() == 1.75
    clock.run_until(2)
    assert [name for name, _ in seen] == ["a", "b", "c", "d"]


def test_a_cancelled_timer_does_not_run():
    clock, seen = VirtualClock(), []
    timer = clock.call_at(clock.monotonic() + 1, lambda: seen.append("never"))
    timer.cancel()
    timer.cancel()
    assert clock.pending == 0
    clock.advance(2)
    assert seen == []
    assert clock.next_at() == inf


def test_a_timer_that_another_thread_sets_while_cancelled_ones_are_dropped_is_not_lost(in_thread):
    """A timer that another thread sets while the clock drops cancelled timers is not lost."""
    clock, seen = VirtualClock(start=0), []

    class SetsAnother:
        """A cancelled timer. While the clock finds out that it is cancelled, another thread sets an earlier timer."""

        @property
        def callback(self):
            if not seen:
                seen.append("set")
                in_thread(clock.call_at, 1, lambda: seen.append("ran")).result(20)

    clock.call_at(2, print)
    clock._alarms[0] = (*clock._alarms[0][:2], SetsAnother())
    assert clock.next_at() == 1
    clock.advance(3)
    assert seen == ["set", "ran"]


def test_a_timer_for_the_past_runs_with_the_next_advance_and_time_stands():
    """A timer for a past time runs at the next advance, and the clock does not go back."""
    clock, seen = VirtualClock(start=10), []
    clock.call_at(3, lambda: seen.append(clock.monotonic()))
    assert seen == []
    clock.advance(0)
    assert seen == [10]


def test_timers_set_by_timers_run_in_the_same_advance_if_they_are_due():
    clock, seen = VirtualClock(start=0), []

    def again():
        seen.append(clock.monotonic())
        clock.call_at(clock.monotonic() + 1, again)

    clock.call_at(1, again)
    clock.advance(3)
    assert seen == [1, 2, 3]
    assert clock.pending == 1


def test_run_all_stops_at_the_last_timer_and_refuses_to_run_for_ever():
    """`run_all` ends at the last timer, and raises if timers always set new ones."""
    clock, seen = VirtualClock(start=0), []
    for when in (5, 3600):
        clock.call_at(when, lambda: seen.append(clock.monotonic()))
    clock.run_all(limit=2)
    assert seen == [5, 3600]
    assert clock.monotonic() == 3600

    def again():
        clock.call_at(clock.monotonic() + 1, again)

    again()
    with pytest.raises(RuntimeError, match="some timer always sets another"):
        clock.run_all(limit=10)


@pytest.mark.parametrize("seconds", [-1, nan, inf])
def test_time_neither_goes_back_nor_to_the_end(seconds):
    """`advance` refuses negative, infinite and undefined durations."""
    clock = VirtualClock()
    with pytest.raises(ValueError, match=r"time does not go back|moved to a moment"):
        clock.advance(seconds)
