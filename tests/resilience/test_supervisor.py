"""The supervisor's decisions alone: when a replica that ended starts again, in time that the test sets."""

from __future__ import annotations

from random import Random

import pytest

from sage_plugins.resilience.restarts import (
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    MOST_STARTS,
    STEADY_S,
    WINDOW_S,
    CrashLoop,
    Restarts,
    Start,
)

SEEDS = range(200)

#: How many seconds rounding may add to or take from a difference.
ROUNDING = 1e-9


def seeded(seed):
    return Restarts(Random(seed))  # noqa: S311 - no secret


@pytest.fixture(params=[1, 2, 3])
def restarts(request):
    return seeded(request.param)


def lives(restarts, now, *, ready_for, index=0):
    """A replica starts, is ready at once and dies. Return the decision."""
    restarts.started(index, now)
    restarts.ready(index, now)
    return restarts.died(index, now + ready_for)


def fails(restarts, now, *, after=0.0, index=0):
    """A replica starts and ends before it is ready. Return the decision."""
    restarts.started(index, now)
    return restarts.failed(index, now + after)


def test_first_replica_that_dies_is_replaced_at_once(restarts):
    """The first replica that dies is replaced at once."""
    assert restarts.died(3, 1000.0) == Start(3, 1000.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_waits_double_up_to_the_longest_and_never_shrink(seed):
    """
    Waits between replacements double up to the longest.

    Each is between half of its maximum and all of it; the first is 0.
    """
    restarts = seeded(seed)
    now, waits = 1000.0, []
    for _ in range(12):
        decision = lives(restarts, now, ready_for=0.5)
        waits.append(decision.at - (now + 0.5))
        now = decision.at
    assert waits[0] == 0
    assert waits == pytest.approx(sorted(waits))
    for number, wait in enumerate(waits[1:]):
        longest = min(FIRST_WAIT_S * 2**number, LONGEST_WAIT_S)
        assert longest / 2 - ROUNDING <= wait <= longest + ROUNDING


def test_waits_are_different_for_each_position():
    """Waits differ between replicas, so that those of a dead node do not all return at once."""
    restarts = seeded(1)
    for index in range(10):
        restarts.died(index, 0.0)
    assert len({lives(restarts, 0.0, ready_for=1, index=index).at for index in range(10)}) == 10


@pytest.mark.parametrize(("ready_for", "steady"), [(STEADY_S, True), (STEADY_S - 0.01, False)])
def test_replica_that_was_ready_for_long_is_replaced_at_once_again(restarts, ready_for, steady):
    """After a replica was ready for `STEADY_S`, the next death is replaced at once and the waits start over."""
    for _ in range(5):
        lives(restarts, 0.0, ready_for=0)
    decision = lives(restarts, 100.0, ready_for=ready_for)
    assert (decision.at == 100.0 + ready_for) is steady
    after = lives(restarts, 1000.0, ready_for=1)
    assert (after.at - 1001.0 <= FIRST_WAIT_S) is steady, "and then the waits start again"


def test_deaths_of_replicas_that_were_ready_are_no_crash_loop(restarts):
    """Deaths of replicas that were ready never make a crash loop."""
    now = 0.0
    for _ in range(1000):
        decision = lives(restarts, now, ready_for=0)
        assert isinstance(decision, Start)
        now = decision.at


def test_five_starts_that_fail_within_a_minute_are_a_crash_loop(restarts):
    """Five failed starts within a minute are a crash loop; four are not. After it nothing starts."""
    now = 0.0
    for _ in range(MOST_STARTS - 1):
        decision = fails(restarts, now)
        assert isinstance(decision, Start)
        assert decision.at > now, "only who has been ready is followed at once"
        now = decision.at
    assert fails(restarts, now) == CrashLoop(0)
    assert restarts.died(0, now + 1e6) == restarts.unplaced(0, now + 1e6) == CrashLoop(0)


@pytest.mark.parametrize(("apart", "loops"), [(WINDOW_S / 4, True), (WINDOW_S / 4 + 0.01, False)])
def test_failures_that_are_further_apart_are_no_crash_loop(restarts, apart, loops):
    """Failed starts further apart are no crash loop; the times of the starts count."""
    decisions = [fails(restarts, number * apart, after=3) for number in range(MOST_STARTS)]
    assert isinstance(decisions[-1], CrashLoop) is loops


def test_failures_count_also_if_a_replica_was_ready_in_between(restarts):
    """Failed starts add up to a crash loop even if a replica was ready in between."""
    for number in range(MOST_STARTS - 1):
        fails(restarts, float(number))
    lives(restarts, 10.0, ready_for=1)
    assert fails(restarts, 20.0) == CrashLoop(0)


def test_what_cannot_be_placed_is_tried_for_ever_and_is_no_crash_loop(restarts):
    """A replica that cannot be placed is tried again without end; that is no crash loop."""
    now, waits = 0.0, []
    for _ in range(1000):
        decision = restarts.unplaced(0, now)
        waits.append(decision.at - now)
        now = decision.at
    assert FIRST_WAIT_S / 2 <= waits[0] <= FIRST_WAIT_S
    assert LONGEST_WAIT_S / 2 <= waits[-1] <= LONGEST_WAIT_S + ROUNDING


def test_stopped_position_is_forgotten(restarts):
    """A replica that was stopped is forgotten, even one in a crash loop."""
    for number in range(MOST_STARTS):
        fails(restarts, float(number))
    restarts.stopped(0)
    assert restarts.died(0, 10.0) == Start(0, 10.0)
    restarts.stopped(17)


def test_positions_know_nothing_of_each_other(restarts):
    """A crash loop of one replica does not affect another."""
    for number in range(MOST_STARTS):
        fails(restarts, float(number), index=1)
    assert restarts.died(0, 10.0) == Start(0, 10.0)
