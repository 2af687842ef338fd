"""The supervisor's decisions, alone: what it says when replicas end, in time that a test gives it."""

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

#: Seconds by which a difference of two readings may be off.
ROUNDING = 1e-9


def seeded(seed):
    return Restarts(Random(seed))  # noqa: S311 - no secret


@pytest.fixture(params=[1, 2, 3])
def restarts(request):
    return seeded(request.param)


def lives(restarts, now, *, ready_for, index=0):
    """A replica is started, is at once ready, and ends; gives the decision."""
    restarts.started(index, now)
    restarts.ready(index, now)
    return restarts.died(index, now + ready_for)


def fails(restarts, now, *, after=0.0, index=0):
    """A replica is started and ends before it is ready; gives the decision."""
    restarts.started(index, now)
    return restarts.failed(index, now + after)


def test_first_replica_that_dies_is_replaced_at_once(restarts):
    assert restarts.died(3, 1000.0) == Start(3, 1000.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_waits_double_up_to_the_longest_and_never_shrink(seed):
    """Each is between half of its longest and that; the first is none."""
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
    """Or all replicas of a node that died would come back in the same moment."""
    restarts = seeded(1)
    for index in range(10):
        restarts.died(index, 0.0)
    assert len({lives(restarts, 0.0, ready_for=1, index=index).at for index in range(10)}) == 10


@pytest.mark.parametrize(("ready_for", "steady"), [(STEADY_S, True), (STEADY_S - 0.01, False)])
def test_replica_that_was_ready_for_long_is_replaced_at_once_again(restarts, ready_for, steady):
    for _ in range(5):
        lives(restarts, 0.0, ready_for=0)
    decision = lives(restarts, 100.0, ready_for=ready_for)
    assert (decision.at == 100.0 + ready_for) is steady
    after = lives(restarts, 1000.0, ready_for=1)
    assert (after.at - 1001.0 <= FIRST_WAIT_S) is steady, "and then the waits begin anew"


def test_deaths_of_replicas_that_were_ready_are_no_crash_loop(restarts):
    now = 0.0
    for _ in range(1000):
        decision = lives(restarts, now, ready_for=0)
        assert isinstance(decision, Start)
        now = decision.at


def test_five_starts_that_fail_within_a_minute_are_a_crash_loop(restarts):
    """Not four; and afterwards nothing is started, whatever happens."""
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
    """What counts is when they were started."""
    decisions = [fails(restarts, number * apart, after=3) for number in range(MOST_STARTS)]
    assert isinstance(decisions[-1], CrashLoop) is loops


def test_failures_count_also_if_a_replica_was_ready_in_between(restarts):
    for number in range(MOST_STARTS - 1):
        fails(restarts, float(number))
    lives(restarts, 10.0, ready_for=1)
    assert fails(restarts, 20.0) == CrashLoop(0)


def test_what_cannot_be_placed_is_tried_for_ever_and_is_no_crash_loop(restarts):
    now, waits = 0.0, []
    for _ in range(1000):
        decision = restarts.unplaced(0, now)
        waits.append(decision.at - now)
        now = decision.at
    assert FIRST_WAIT_S / 2 <= waits[0] <= FIRST_WAIT_S
    assert LONGEST_WAIT_S / 2 <= waits[-1] <= LONGEST_WAIT_S + ROUNDING


def test_stopped_position_is_forgotten(restarts):
    """Also one that was in a crash loop."""
    for number in range(MOST_STARTS):
        fails(restarts, float(number))
    restarts.stopped(0)
    assert restarts.died(0, 10.0) == Start(0, 10.0)
    restarts.stopped(17)


def test_positions_know_nothing_of_each_other(restarts):
    for number in range(MOST_STARTS):
        fails(restarts, float(number), index=1)
    assert restarts.died(0, 10.0) == Start(0, 10.0)
