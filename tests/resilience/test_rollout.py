"""The decisions of `Rollout`, in single cases and in random courses of events."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sage_plugins.resilience.rollout import (
    MOST_DEATHS,
    Done,
    Halt,
    Promote,
    ReplicaView,
    RollBack,
    Rollout,
    RolloutSettings,
    Start,
    Stop,
    Wait,
)

DEADLINE = 60.0


def settings_of(surge=1, unavailable=0, ready_s=0.0, *, back=True):
    return RolloutSettings(surge, unavailable, ready_s, DEADLINE, back)


class Model:
    """A service whose replicas do what a test says. It carries out the rollout's decisions and checks each of them."""

    def __init__(self, places, limits, room=None):
        self.limits = limits
        self.rollout = Rollout(range(places), limits)
        names = [f"old{index}" for index in range(places)]
        old = {"new": False, "alive": True, "ready": True, "has_place": True}
        self.views = {name: ReplicaView(name, index, **old) for index, name in enumerate(names)}
        self.places, self.room, self.now = places, room, 1000.0
        self.leaving = []
        self.trace = []
        self.outcome = None
        self.dead_by_itself = False
        self.count = 0

    def change(self, id, **values):
        self.views[id] = self.views[id]._replace(**values)

    @property
    def alive(self):
        return [each for each in self.views.values() if each.alive]

    @property
    def serving(self):
        """The replicas that are ready."""
        return [each for each in self.views.values() if each.ready]

    def step(self):
        found = self.rollout.step(list(self.views.values()), len(self.leaving), self.now)
        self.trace.append(found)
        match found:
            case Start(index, new):
                assert len(self.alive) < self.places + self.limits.max_surge
                if self.room is not None and len(self.alive) + len(self.leaving) >= self.room:
                    self.rollout.refused("no room", list(self.views.values()), len(self.leaving))
                else:
                    self.count += 1
                    id = f"{'new' if new else 'again'}{self.count}"
                    self.views[id] = ReplicaView(id, index, new, alive=True, ready=False, has_place=False)
            case Promote(id, old):
                assert self.views[id].ready
                self.change(id, has_place=True)
                if old is not None:
                    self.leave(old)
            case Stop(id):
                self.leave(id)
            case RollBack() | Wait():
                pass
            case _:
                self.outcome = found
        return found

    def leave(self, id):
        each = self.views.pop(id)
        if each.ready and (each.has_place or not each.new):
            enough = len(self.serving) >= self.places - self.limits.max_unavailable
            assert enough, f"{id} was stopped, and only {self.serving} serve"
        self.leaving.append(id)

    def settle(self, *, stuck=False):
        """Let starting replicas get ready (none if *stuck*) and leaving ones stop, and let time pass until the end."""
        for _ in range(20 * self.places + 20):
            if isinstance(self.step(), Wait):
                for id, each in list(self.views.items()):
                    if not (each.ready or each.why_hopeless or stuck):
                        self.change(id, alive=True, ready=True, ended=False)
                self.leaving.clear()
                self.now += (DEADLINE if stuck else 1.0) + self.limits.min_ready_s
            if self.outcome is not None:
                return
        pytest.fail(f"it does not end: {self.trace[-10:]}")

    def run_until(self, kind):
        while not isinstance(found := self.step(), kind):
            assert not isinstance(found, (Done, Halt)), self.trace
        return found


def test_each_replica_is_started_before_the_old_one_leaves():
    """By default one replica more starts at a time, and each old one leaves only after its successor is ready."""
    model = Model(2, settings_of())
    assert model.step() == Start(0, new=True)
    assert isinstance(model.step(), Wait)
    model.change("new1", ready=True)
    assert model.step() == Promote("new1", "old0")
    assert model.step() == Start(1, new=True)  # old0 still drains, which does not count
    model.change("new2", ready=True)
    assert model.step() == Promote("new2", "old1")
    assert model.step() == Done()


def test_without_surge_an_old_one_leaves_first():
    """With `max_surge` 0 an old replica leaves first."""
    model = Model(2, settings_of(surge=0, unavailable=1))
    assert model.step() == Stop("old0", "it is replaced")
    assert model.step() == Start(0, new=True)
    assert isinstance(model.step(), Wait)
    model.change("new1", ready=True)
    assert model.step() == Promote("new1", None)
    assert isinstance(model.step(), Stop)


def test_a_replica_counts_when_it_has_been_ready_for_min_ready_s_without_a_break():
    """A replica counts once it has been ready for `min_ready_s` without a break."""
    model = Model(1, settings_of(ready_s=10.0))
    model.run_until(Wait)
    model.change("new1", ready=True)
    assert model.step() == Wait(1010.0)
    model.now = 1009.0
    model.change("new1", ready=False)
    assert isinstance(model.step(), Wait)
    model.change("new1", ready=True)
    assert model.step() == Wait(1019.0)
    model.now = 1019.0
    assert model.step() == Promote("new1", "old0")


def test_one_that_is_late_has_everything_rolled_back():
    """If a new replica is late, all are rolled back. Each old version starts before its new one leaves."""
    model = Model(2, settings_of())
    model.run_until(Wait)
    model.change("new1", ready=True)
    model.run_until(Wait)
    model.now += DEADLINE
    assert model.run_until(RollBack) == RollBack("not ready after 60 s", "new2")
    assert model.step() == Stop("new2", "the update is rolled back")
    assert model.step() == Start(0, new=False)
    assert isinstance(model.step(), Wait)
    model.change("again3", ready=True)
    assert model.step() == Promote("again3", "new1")
    assert model.step() == Done()
    assert sorted(model.views) == ["again3", "old1"]


def test_without_auto_rollback_it_stops_where_it_is():
    """Without `auto_rollback` a failed update stops where it is."""
    model = Model(2, settings_of(back=False))
    model.run_until(Wait)
    model.now += DEADLINE
    assert model.step() == Halt("not ready after 60 s", "new1")


def test_a_replica_whose_process_dies_is_started_again_a_few_times():
    """A new replica whose process dies starts again, at most `MOST_DEATHS` times."""
    model = Model(1, settings_of())
    for number in range(1, MOST_DEATHS + 1):
        assert model.step() == Start(0, new=True)
        del model.views[f"new{number}"]
        model.rollout.ended(f"new{number}", "killed", died=True)
    assert model.step() == Start(0, new=True)
    model.rollout.ended("new4", "killed", died=True)
    assert model.step() == RollBack("killed", "new4")


def test_a_constructor_that_fails_is_not_called_again():
    """After a constructor fails, the update is rolled back without another try."""
    model = Model(1, settings_of())
    model.step()
    model.rollout.ended("new1", "ValueError", died=False)
    assert model.step() == RollBack("ValueError", "new1")


def test_a_place_whose_replica_is_dead_is_first():
    """A dead replica is replaced first: that takes nothing from anyone."""
    model = Model(3, settings_of(surge=0, unavailable=1))
    model.change("old2", alive=False, ready=False)
    assert model.step() == Start(2, new=True)


def test_no_replica_leaves_while_too_few_serve():
    """No replica leaves while too few are ready, even if another died meanwhile."""
    model = Model(2, settings_of())
    model.run_until(Wait)
    model.change("old1", ready=False)  # it is starting again
    assert isinstance(model.step(), Wait)
    model.change("new1", ready=True)
    assert model.step() == Stop("old1", "it is replaced")  # it is not ready, and makes room
    assert model.step() == Start(1, new=True)
    assert isinstance(model.step(), Wait)
    model.change("new2", ready=True)
    model.settle()
    assert model.outcome == Done()


def test_without_room_for_more_an_old_one_leaves_first_if_it_may():
    """Without room for another replica, an old one leaves first if `max_unavailable` allows it."""
    model = Model(2, settings_of(surge=1, unavailable=1), room=2)
    assert model.step() == Start(0, new=True)
    assert isinstance(stopped := model.step(), Stop)
    assert "no room" in stopped.why
    assert model.step() == Start(0, new=True)  # refused, since the old replica still drains
    assert isinstance(model.step(), Wait)
    model.leaving.clear()
    assert model.step() == Start(0, new=True)
    assert "new1" in model.views


def test_without_room_for_more_and_none_that_may_leave_it_is_rolled_back():
    """If there is no room and no replica may leave, the update is rolled back."""
    model = Model(2, settings_of(), room=2)
    model.step()
    assert model.step() == RollBack("there is no room for another replica: no room", None)
    assert model.step() == Done()
    assert sorted(model.views) == ["old0", "old1"]


def test_a_replica_that_has_ended_is_not_stopped_to_make_room():
    """A replica that has ended is not stopped to make room; the supervisor goes on replacing it."""
    model = Model(1, settings_of(), room=1)
    model.change("old0", ready=False, ended=True)
    model.step()
    assert isinstance(model.step(), RollBack)
    assert model.step() == Done()
    assert list(model.views) == ["old0"]


def test_a_rollback_does_not_wait_for_ever_for_an_old_replica_that_ended():
    """If an old replica has ended, the rollback leaves its new one in place and ends with Halt."""
    model = Model(2, settings_of())
    model.run_until(Wait)
    model.change("old1", ready=False)
    model.change("new1", ready=True)
    model.rollout.fail("it was interrupted")
    model.run_until(RollBack)
    model.change("old0", ready=False, ended=True)
    model.settle(stuck=True)
    assert isinstance(model.outcome, Halt)
    assert "new1" in model.views


def test_a_rollback_ends_though_an_old_replica_of_another_place_never_serves_again():
    """If a rollback needs a new replica because an old one of another place never serves again, it gives up."""
    model = Model(2, settings_of())
    model.step()
    model.change("new1", ready=True)
    model.change("old1", ready=False)
    model.rollout.fail("the new version is bad")
    model.run_until(RollBack)
    model.settle(stuck=True)
    assert isinstance(model.outcome, Halt)
    assert set(model.views) == {"old0", "old1", "new1"}


def test_settings_have_the_defaults_of_the_field():
    """The settings' defaults are those of the configuration's field."""
    assert RolloutSettings.of(None) == RolloutSettings(1, 0, 0.0, 600.0, auto_rollback=True)
    assert RolloutSettings.of({"max_surge": 3}).max_surge == 3


class Rolling(RuleBasedStateMachine):
    """
    Replicas become ready or unready, die and return, and room is short, in any order.

    `Model` checks each step: at most `max_surge` replicas more, and no stop that leaves too few ready. At the end
    there is one replica for each index, all of one version.
    """

    @initialize(
        places=st.integers(1, 4),
        limits=st.builds(
            settings_of, st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, 5.0]), back=st.booleans()
        ).filter(lambda limits: limits.max_surge or limits.max_unavailable),
        room=st.none() | st.integers(0, 2),
        stuck=st.booleans(),
    )
    def begin(self, places, limits, room, stuck):
        self.stuck = stuck
        self.model = Model(places, limits, None if room is None else places + room)

    @property
    def going_on(self):
        return self.model.outcome is None

    def some(self, data, *, new=None, **values):
        """Return one of the replicas with these values; None if there is none."""
        found = [
            each
            for each in self.model.views.values()
            if new in {None, each.new} and all(getattr(each, name) == value for name, value in values.items())
        ]
        return data.draw(st.sampled_from(found)) if found else None

    @precondition(lambda self: self.going_on)
    @rule()
    def step(self):
        self.model.step()

    @precondition(lambda self: self.going_on)
    @rule(data=st.data())
    def one_gets_ready(self, data):
        if found := self.some(data, ready=False, why_hopeless=""):
            self.model.change(found.id, alive=True, ready=True, ended=False)

    @precondition(lambda self: self.going_on)
    @rule(data=st.data())
    def one_is_not_ready_any_more(self, data):
        if found := self.some(data, ready=True):
            self.model.change(found.id, ready=False)

    @precondition(lambda self: self.going_on)
    @rule(data=st.data(), died=st.booleans(), comes_back=st.booleans())
    def one_ends(self, data, died, comes_back):
        if found := self.some(data, alive=True):
            if found.has_place:
                self.model.change(found.id, alive=comes_back, ready=False, ended=True)
            else:
                del self.model.views[found.id]
                self.model.rollout.ended(found.id, "ended", died=died)

    @precondition(lambda self: self.going_on)
    @rule(data=st.data())
    def a_new_one_is_in_a_crash_loop(self, data):
        if found := self.some(data, new=True, has_place=True):
            self.model.change(found.id, alive=False, ready=False, ended=True, why_hopeless="loops")

    @precondition(lambda self: self.going_on)
    @rule()
    def those_that_leave_have_stopped(self):
        self.model.leaving.clear()

    @rule(seconds=st.sampled_from([1.0, 5.0, DEADLINE]))
    def time_passes(self, seconds):
        self.model.now += seconds

    @invariant()
    def no_place_has_two_of_one_version(self):
        if hasattr(self, "model"):
            found = [(each.index, each.new) for each in self.model.views.values()]
            assert len(found) == len(set(found))

    def teardown(self):
        if not hasattr(self, "model"):
            return
        model = self.model
        if model.outcome is None:
            model.settle(stuck=self.stuck)
        versions = {each.new for each in model.views.values()}
        if isinstance(model.outcome, Done):
            assert sorted(each.index for each in model.views.values()) == list(range(model.places))
            assert versions == {not model.rollout.back}
        else:
            assert model.rollout.back or not model.limits.auto_rollback, "it gave up without having gone back"


TestRolling = Rolling.TestCase
TestRolling.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
