"""The autoscaler's decisions alone: when a service gets more or fewer replicas, in time that the test sets."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sage_deploy_autoscalers.target_ongoing import TargetOngoing
from sage_plugins.resilience.autoscaling import FIRST_WAIT_S, LONGEST_WAIT_S, AutoscaleSettings, Scaler
from scaled_service import LOOK, Stage, load

# -- more and fewer ----------------------------------------------------------------------------------------------------


def test_more_replicas_start_after_the_delay_and_not_before():
    """After `upscale_delay` above the target, as many replicas start as the calls need, in one step."""
    stage = Stage(max=10, target_ongoing_requests=2, upscale_delay=10, look_back=5)
    assert stage.hold(8, 10) == []
    assert stage.hold(8, 1) == [4]


def test_fewer_replicas_stay_after_the_delay_and_not_before():
    """Replicas stop only after `downscale_delay` below the target."""
    stage = Stage(min=1, initial=4, max=10, slots=2, target_ongoing_requests=2, downscale_delay=30, look_back=5)
    stage.hold(8, 20)
    assert stage.hold(2, 30) == []
    assert stage.hold(2, 5) == [1]


def test_fluctuation_begins_the_delay_again():
    """One look that needs no more replicas restarts the delay."""
    stage = Stage(max=10, target_ongoing_requests=2, upscale_delay=10, look_back=1)
    stage.hold(8, 9)
    stage.hold(2, 2)
    assert stage.hold(8, 10) == []
    assert stage.hold(8, 2) == [4]


def test_calls_that_wait_count_as_well():
    """Waiting calls count like running ones."""
    stage = Stage(max=10, target_ongoing_requests=2, upscale_delay=0, look_back=1)
    assert stage.scaler.look(load(1000.0, 1, ongoing=1, queued=7)).replicas == 4


def test_bounds_hold_whatever_the_policy_says():
    """The number of replicas stays within `min` and `max`, whatever the policy says."""
    for says, expected in ((1e9, 5), (0.0, 2)):
        stage = Stage(min=2, initial=3, max=5, upscale_delay=0, downscale_delay=0, policy=lambda _, says=says: says)
        assert stage.hold(1, 3) == [expected]


def test_factor_below_one_still_moves_by_one_replica():
    """A factor below 1 still moves by at least one replica."""
    up = Stage(initial=2, max=9, target_ongoing_requests=1, upscale_delay=0, upscale_factor=0.1, look_back=1)
    assert up.hold(3, 2) == [3]
    down = Stage(initial=3, max=9, target_ongoing_requests=1, downscale_delay=0, downscale_factor=0.1, look_back=1)
    assert down.hold(2, 2) == [2]
    half = Stage(initial=2, max=20, target_ongoing_requests=1, upscale_delay=0, upscale_factor=0.5, look_back=1)
    assert half.look(10).replicas == 6


def test_deviation_within_the_tolerance_changes_nothing():
    """A deviation within `tolerance` changes nothing."""
    stage = Stage(initial=10, max=20, target_ongoing_requests=1, upscale_delay=0, downscale_delay=0, look_back=1)
    assert stage.hold(11, 20) == []
    assert stage.hold(9, 20) == []
    assert stage.hold(12, 3) == [12]


def test_fewer_replicas_than_calls_run_are_never_wanted():
    """The autoscaler never goes below the number of replicas that the running calls need."""
    stage = Stage(initial=4, max=8, downscale_delay=0, policy=lambda _: 1.0)
    assert stage.scaler.look(load(1000.0, 4, ongoing=3)).replicas == 3
    assert stage.scaler.look(load(1001.0, 3, ongoing=3)) is None


def test_replicas_that_are_starting_are_not_asked_for_twice():
    """Replicas that are starting count, so the same load asks for no more."""
    stage = Stage(max=10, target_ongoing_requests=1, upscale_delay=0, look_back=1)
    assert stage.scaler.look(load(1000.0, 1, ongoing=1, queued=5)).replicas == 6
    for second in range(1, 20):
        assert stage.scaler.look(load(1000.0 + second, 6, ongoing=1, queued=5, ready=1)) is None
    assert stage.scaler.wanted == 6


def test_threads_come_before_replicas():
    """Without `target_ongoing_requests`, all threads of a replica are used before another replica starts."""
    stage = Stage(max=10, upscale_delay=0, look_back=1, slots=8)
    assert stage.hold(8, 5) == []
    assert stage.hold(16, 2) == [2]
    single = Stage(max=10, upscale_delay=0, look_back=1)
    assert single.hold(2, 5) == []
    assert single.hold(4, 2) == [2]


def test_fewer_replicas_are_as_many_as_were_wanted_in_the_whole_delay():
    """
    Scaling down keeps the most replicas wanted during the delay.

    The first seconds do not count, since they are averages.
    """
    says = iter([9] * 3 + [5] * 3 + [4] + [2] * 24)
    stage = Stage(initial=9, max=10, downscale_delay=10, look_back=3, policy=lambda _: next(says))
    assert stage.hold(0, 13) == []
    assert stage.hold(0, 1) == [4]
    assert stage.changes[0][2].endswith("and no more than 4 replicas for 10 s")


def test_long_wait_in_the_queue_wants_more_replicas():
    """A wait above `target_queue_wait` asks for more replicas, at most twice as many at a time."""
    wait = {"target_ongoing_requests": 10, "target_queue_wait": 0.5, "upscale_delay": 0, "look_back": 1}
    assert Stage(initial=2, max=9, slots=5, **wait).hold(4, 2, wait=0.4) == []
    assert Stage(initial=2, max=9, slots=5, **wait).hold(4, 2, wait=0.7)[:1] == [3]
    assert Stage(initial=2, max=9, slots=5, **wait).hold(4, 2, wait=60.0)[:1] == [4]


def test_number_that_somebody_else_has_changed_is_kept_for_the_whole_delay():
    """If the number is changed by hand, the delay begins again."""
    stage = Stage(max=10, target_ongoing_requests=1, downscale_delay=20, look_back=1)
    stage.hold(1, 5)
    stage.replicas = 5
    stage.hold(1, 15)
    assert stage.scaler.wanted == 5
    stage.replicas = 6
    assert stage.hold(1, 20) == []
    assert stage.hold(1, 2) == [1]


@pytest.mark.parametrize("answer", [None, "3", float("nan"), float("inf"), -1])
def test_what_is_no_number_of_replicas_is_the_policys_fault(answer):
    """If the policy returns no valid number of replicas, the error says so."""
    stage = Stage(max=3, policy=lambda _: answer)
    with pytest.raises(ValueError, match=r"it gave .*, which is no number of replicas"):
        stage.look(1)


def test_reasons_have_the_numbers_that_decided():
    """The reason of a decision contains the numbers behind it."""
    stage = Stage(max=10, target_ongoing_requests=2, upscale_delay=3, look_back=30)
    stage.hold(8, 4)
    ((_, number, reason),) = stage.changes
    assert number == 4
    assert reason == ("it wants 4: 8 calls run or wait on average over 30 s, 2 for each replica are aimed at, for 3 s")
    aims = {"target_ongoing_requests": 2, "target_queue_wait": 0.5}
    stage = Stage(max=10, policy=lambda _: 2, upscale_delay=0, look_back=30, **aims)
    assert stage.look(3, wait=0.4).reason == (
        "it wants 2: 3 calls run or wait on average over 30 s, 2 for each replica are aimed at, "
        "and they wait 0.4 s, with 0.5 s aimed at, for 0 s"
    )


# -- zero --------------------------------------------------------------------------------------------------------------


def test_last_replica_stops_after_its_own_delay_without_calls():
    """The last replica stops after `scale_to_zero_delay` without calls."""
    stage = Stage(min=0, max=3, scale_to_zero_delay=60, downscale_delay=5)
    stage.hold(1, 5)
    assert stage.hold(0, 59) == []
    assert stage.hold(0, 1) == [0]
    assert stage.changes[-1][2] == "no call for 60 s"


def test_short_calls_that_no_look_sees_keep_the_last_replica():
    """Calls between two looks keep the last replica, since each replica reports when its last call ended."""
    stage = Stage(min=0, max=3, scale_to_zero_delay=10)
    for _ in range(100):
        assert stage.look(0, busy_at=stage.now - 5) is None


@pytest.mark.parametrize("calls", [1, 2])
def test_last_replica_never_stops_while_it_has_a_call(calls):
    """The last replica never stops while a call runs or waits, whatever the delay."""
    assert Stage(min=0, max=1, scale_to_zero_delay=0, downscale_delay=0).hold(calls, 10) == []


def test_call_that_waits_wants_replicas_at_once():
    """At zero replicas a waiting call starts as many replicas as the calls need, without delay."""
    stage = Stage(min=0, max=3, target_ongoing_requests=2, scale_to_zero_delay=0, downscale_delay=0)
    assert stage.hold(0, 3) == [0]
    assert stage.look(1).replicas == 1
    stage.hold(0, 3)
    assert stage.replicas == 0
    assert stage.look(100).replicas == 3


def test_woken_up_it_stays_for_the_whole_delay():
    """After a start from zero, the whole `scale_to_zero_delay` applies again."""
    stage = Stage(min=0, max=3, target_ongoing_requests=2, scale_to_zero_delay=30)
    stage.hold(0, 40)
    stage.look(1)
    assert stage.hold(0, 30) == []
    assert stage.hold(0, 2) == [0]


# -- starts that fail --------------------------------------------------------------------------------------------------


def test_start_that_failed_is_tried_again_later_and_later():
    """After a failed start the next try waits 1 s, then twice as long, up to a minute. A success resets this."""
    stage = Stage(max=2, target_ongoing_requests=1, upscale_delay=0, look_back=1)
    tries = []
    for _ in range(400):
        if stage.scaler.look(load(stage.now, 1, ongoing=1, queued=5)) is not None:
            tries.append(stage.now)
            stage.scaler.failed(stage.now)
        stage.now += LOOK
    waits = [later - earlier for earlier, later in pairwise(tries)]
    assert waits[:7] == [FIRST_WAIT_S, 2, 4, 8, 16, 32, LONGEST_WAIT_S]
    assert set(waits[7:]) == {LONGEST_WAIT_S}
    assert stage.scaler.wanted == 2
    stage.scaler.succeeded()
    stage.scaler.failed(stage.now)
    assert stage.scaler.look(load(stage.now + FIRST_WAIT_S, 1, ongoing=1, queued=5)) is not None


# -- for long ----------------------------------------------------------------------------------------------------------


def test_the_aim_counts_exactly_when_a_service_wakes_up():
    """
    At zero replicas, waiting calls start exactly as many replicas as the target needs.

    The reason counts the calls.
    """
    for calls, replicas, said in ((1, 1, "a call waits"), (4, 2, "4 calls wait"), (5, 3, "5 calls wait")):
        stage = Stage(min=0, initial=0, max=9, target_ongoing_requests=2)
        stage.look(0)
        assert stage.scaler.wanted == 0
        assert stage.look(calls) == (replicas, f"{said} while there is no replica")
        assert stage.scaler.wanted == replicas


def test_a_failed_start_is_tried_again_at_the_end_of_its_wait_and_not_before():
    """A failed start is tried again at the end of its wait, not before."""
    scaler = Scaler(AutoscaleSettings.of({"min": 0, "initial": 0, "max": 9}), TargetOngoing().decide)
    assert scaler.look(load(1000.0, 0, queued=1)) is not None
    scaler.failed(1000.0)
    assert scaler.look(load(1000.0 + FIRST_WAIT_S - 0.001, 0, queued=1)) is None
    assert scaler.look(load(1000.0 + FIRST_WAIT_S, 0, queued=1)) is not None


def test_factors_say_how_much_of_the_way_is_gone_at_once():
    """`upscale_factor` and `downscale_factor` set how much of the difference is made up at once."""
    for factor, expected in ((0.5, 6), (0.25, 8), (0.1, 9), (1.0, 2)):
        down = Stage(initial=10, max=20, policy=lambda _: 2, downscale_delay=0, downscale_factor=factor)
        assert down.look(0).replicas == expected
    for factor, expected in ((0.5, 6), (0.25, 4), (0.1, 3), (1.0, 10)):
        up = Stage(initial=2, max=20, policy=lambda _: 10, upscale_delay=0, upscale_factor=factor)
        assert up.look(0).replicas == expected


def test_the_smallest_factor_still_moves_by_one_replica():
    """The smallest factor still moves by one replica."""
    assert Stage(initial=2, max=9, policy=lambda _: 4, upscale_delay=0, upscale_factor=1e-9).look(0).replicas == 3
    assert Stage(initial=4, max=9, policy=lambda _: 2, downscale_delay=0, downscale_factor=1e-9).look(0).replicas == 3


def test_a_deviation_as_large_as_the_tolerance_changes_nothing():
    """A deviation exactly as large as the tolerance changes nothing."""
    for says, expected in ((11.0, None), (11.1, 12), (9.0, None), (8.9, 9)):
        stage = Stage(
            initial=10, max=20, policy=lambda _, says=says: says, upscale_delay=0, downscale_delay=0, tolerance=0.1
        )
        found = stage.look(0)
        assert (found and found.replicas) == expected, says


def test_means_weigh_each_look_by_the_time_it_stands_for():
    """Means cover the look-back time only, and weigh each look by the time since the one before."""
    shown = []
    scaler = Scaler(AutoscaleSettings.of({"max": 9, "look_back": 10}), lambda each: shown.append(each) or 1.0)
    for now, calls, wait in ((0.0, 7, 70.0), (4.0, 2, 1.0), (5.0, 4, 3.0), (13.0, 1, 0.5)):
        scaler.look(load(now, 1, ongoing=calls, wait=wait, slots=10))
    means = [(each.mean_calls, each.mean_wait_s) for each in shown]
    assert means[:2] == [(7, 70.0), (2, 1.0)]
    assert means[2] == pytest.approx((2 * 0.8 + 4 * 0.2, 1.0 * 0.8 + 3.0 * 0.2))
    assert means[3] == pytest.approx((2 * 0.1 + 4 * 0.1 + 1 * 0.8, 1.0 * 0.1 + 3.0 * 0.1 + 0.5 * 0.8))


def test_half_a_second_of_looks_is_a_mean_as_well():
    """Means are correct for looks less than a second apart."""
    shown = []
    scaler = Scaler(AutoscaleSettings.of({"max": 9, "look_back": 10}), lambda each: shown.append(each) or 1.0)
    for now, calls in ((0.0, 8), (0.25, 0), (0.5, 4)):
        scaler.look(load(now, 1, ongoing=calls, slots=10))
    assert shown[-1].mean_calls == 2.0


def test_a_decision_begins_every_delay_again():
    """After each decision the next one has its whole delay, even if more replicas are still wanted."""
    stage = Stage(initial=1, max=20, policy=lambda _: 20, upscale_delay=5, upscale_factor=0.1)
    stage.hold(0, 13)
    assert [when for when, *_ in stage.changes] == [5.0, 11.0], "5 s, and 5 s from the first look at the new number"
    scaler = Scaler(stage.settings, lambda _: 20)
    decided = [second for second in range(13) if scaler.look(load(1000.0 + second, 1)) is not None]
    assert decided == [5, 11], "also if nobody carries it out"


# -- what is known of the replicas -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "low", "most", "first"),
    [
        ({}, 1, 1, 1),
        ({"min": 0}, 0, 1, 1),
        ({"min": 0, "initial": 0}, 0, 1, 0),
        ({"min": 3}, 3, 3, 3),
        ({"initial": 4}, 1, 4, 4),
        ({"max": 7}, 1, 7, 1),
    ],
)
def test_bounds_that_are_left_out_follow_those_that_are_given(said, low, most, first):
    """A service starts with `min` replicas, but at least one. Without `max` it never has more than at the start."""
    settings = AutoscaleSettings.of(said)
    assert (settings.min, settings.max, settings.initial) == (low, most, first)
    assert Scaler(settings, TargetOngoing().decide).wanted == first


def test_the_delay_to_zero_is_that_of_fewer_replicas_unless_it_is_given():
    """`scale_to_zero_delay` is `downscale_delay` by default."""
    assert AutoscaleSettings.of({"downscale_delay": 7.0}).scale_to_zero_delay == 7.0
    assert AutoscaleSettings.of({"downscale_delay": 7.0, "scale_to_zero_delay": 0.0}).scale_to_zero_delay == 0.0


def test_calls_may_wait_before_the_first_replica_is_ready():
    """Before the first replica is ready its slots are unknown, and the target is two calls per replica."""
    scaler = Scaler(AutoscaleSettings.of({"max": 9, "upscale_delay": 0}), TargetOngoing().decide)
    assert scaler.look(load(1000.0, 1, queued=6, ready=0)).replicas == 3


def test_what_was_decided_is_wanted_until_it_is_done_or_somebody_else_decides():
    """`wanted` stays at the decided number while replicas start, until somebody scales by hand."""
    scaler = Scaler(AutoscaleSettings.of({"max": 9, "upscale_delay": 1, "look_back": 1}), lambda _: 6)
    assert scaler.look(load(1000.0, 1)) is None
    assert scaler.look(load(1001.0, 1)).replicas == 6
    assert (scaler.look(load(1001.5, 3)), scaler.wanted) == (None, 6)
    assert (scaler.look(load(1002.0, 4)), scaler.wanted) == (None, 4)


def test_what_was_decided_is_wanted_no_more_once_the_load_has_gone():
    """If the load is gone before a replica has started, `wanted` drops again."""
    says = iter([6, 1])
    scaler = Scaler(AutoscaleSettings.of({"max": 9, "upscale_delay": 0}), lambda _: next(says))
    assert scaler.look(load(1000.0, 1)).replicas == 6
    assert (scaler.look(load(1001.0, 1)), scaler.wanted) == (None, 1)
