"""Each faulty balancer below fails the conformance case that proves the rule it breaks."""

from __future__ import annotations

import itertools
import random
import threading
import zlib
from pathlib import Path

import pytest

import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_testing.cases.replica_cases import ReplicaCases
from sage_deploy_testing.doubles.fake_candidate import FakeCandidate
from sage_deploy_testing.suites.balancer_conformance import BALANCER_CAPABILITIES, BalancerConformance
from sage_plugins.hookspecs import hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration

ROOT = Path(__file__).parent.parent.parent


class Sound:
    """A correct balancer: turns among the least loaded replicas; a key goes to the replica with the best score."""

    binding = False

    def __init__(self, _options=None, _where=None):
        pass

    def picker(self, candidates):
        turns = itertools.cycle(candidates).__next__

        def pick(key, method):
            loads = [each.inflight + each.waiting for each in candidates]
            if key is not None:
                return max(candidates, key=lambda each: self.score(each, key))
            chosen = turns()
            return chosen if chosen.inflight + chosen.waiting == min(loads) else candidates[loads.index(min(loads))]

        return pick

    @staticmethod
    def score(candidate, key):
        return zlib.crc32(
            f"{candidate.id}/{key!r:.40}/{candidate.id}".encode("utf-8", "backslashreplace")
        ), candidate.id


class Complete(Sound):
    """A correct balancer with all optional members."""

    key_argument = None

    def observe(self, candidate, method, outcome, wait_s, run_s):
        pass


class Forgetful(Sound):
    """It never chooses the last of several replicas."""

    def picker(self, candidates):
        return super().picker(candidates[:-1] or candidates)


class FirstOfEquals(Sound):
    """It takes the least loaded replica, and always the first of equals."""

    def picker(self, candidates):
        return lambda _key, _method: min(candidates, key=lambda each: each.inflight)


class Unfair(Sound):
    """One replica gets twice as many calls as the others."""

    def picker(self, candidates):
        return super().picker((*candidates, candidates[0]))


class UnfairUnderLoad(Sound):
    """It takes turns only among idle replicas."""

    def picker(self, candidates):
        pick = super().picker(candidates)
        return lambda key, method: candidates[0] if all(each.inflight for each in candidates) else pick(key, method)


class Foreign(Sound):
    """It returns a copy of a replica instead of one of the candidates."""

    def picker(self, candidates):
        pick = super().picker(candidates)

        def copied(key, method):
            chosen = pick(key, method)
            return FakeCandidate(chosen.id, chosen.index)

        return copied


class Surprised(Sound):
    """It fails for keys that are numbers."""

    def picker(self, candidates):
        pick = super().picker(candidates)
        return lambda key, method: pick(key if key is None else key.upper(), method)


class Herding(Sound):
    """It declares that it avoids load, but chooses the most loaded replica."""

    def picker(self, candidates):
        return lambda _key, _method: max(candidates, key=lambda each: each.inflight)


class Nostalgic(Sound):
    """It also chooses replicas that have left."""

    def __init__(self, _options=None, _where=None):
        self.known = {}

    def picker(self, candidates):
        self.known |= {each.id: each for each in candidates}
        return super().picker(tuple(self.known.values()))


class Conservative(Sound):
    """It only ever knows the first set of replicas."""

    known = None

    def picker(self, candidates):
        self.known = self.known or candidates
        return super().picker(tuple(each for each in self.known if each in candidates) or candidates)


class OneSet(Sound):
    """All its pickers choose from the latest set of replicas."""

    def picker(self, candidates):
        self.candidates = candidates
        turns = itertools.count()
        return lambda _key, _method: self.candidates[next(turns) % len(self.candidates)]


class OneForAll(Sound):
    """All its instances share one set of replicas, kept in the class."""

    def picker(self, candidates):
        OneForAll.candidates = candidates
        turns = itertools.count()
        return lambda _key, _method: OneForAll.candidates[next(turns) % len(OneForAll.candidates)]


class NotThreadSafe(Sound):
    """It chooses with a generator, which only one thread may run at a time."""

    def picker(self, candidates):
        def choices():
            while True:
                for each in candidates:
                    for _ in range(20):
                        pass
                    yield each

        following = choices().__next__
        return lambda _key, _method: following()


class Locking(Sound):
    """It chooses under a lock that is not reentrant, and waits for it for longer than the suite does."""

    def picker(self, candidates):
        pick, lock, tired = super().picker(candidates), threading.Lock(), []

        def locked(key, method):
            if tired or not lock.acquire(timeout=0.6):
                tired.append(True)
                return pick(key, method)
            chosen = pick(key, method)
            lock.release()
            return chosen

        return locked


class Modulo(Sound):
    """The key's hash modulo the number of replicas: nearly all keys move when a replica leaves or joins."""

    def picker(self, candidates):
        ordered = sorted(candidates, key=lambda each: each.index)
        return lambda key, method: ordered[zlib.crc32(repr(key).encode()) % len(ordered)]


class Salted(Sound):
    """It uses Python's `hash`, which has a different salt in each process."""

    @staticmethod
    def score(candidate, key):
        return hash((candidate.id, key)), candidate.id


class Positional(Sound):
    """It scores replicas by their position in the tuple."""

    def picker(self, candidates):
        pick = super().picker(candidates)
        return lambda key, method: (
            pick(key, method)
            if key is None
            else candidates[max(range(len(candidates)), key=lambda at: zlib.crc32(f"{at}/{key!r:.40}/{at}".encode()))]
        )


class Fickle(Sound):
    """It sends equal keys to different replicas."""

    @staticmethod
    def score(_candidate, _key):
        return random.random()  # noqa: S311 - a fault


class Crowding(Sound):
    """It gives nearly all keys to the last replica."""

    @staticmethod
    def score(candidate, key):
        return Sound.score(candidate, key)[0] % 30 == 0, candidate.id


class Occasional(Sound):
    """It raises at every 50th call."""

    def picker(self, candidates):
        pick, turns = super().picker(candidates), itertools.count(1)

        def failing(key, method):
            if next(turns) % 50 == 0:
                raise RuntimeError("the fiftieth")
            return pick(key, method)

        return failing


class Lazy(Sound):
    """It sends all calls without a key to the first replica."""

    def picker(self, candidates):
        return lambda key, method: (
            candidates[0] if key is None else candidates[zlib.crc32(repr(key).encode()) % len(candidates)]
        )


class Homebound(Sound):
    """It works only for services of an environment."""

    def __init__(self, _options=None, where=None):
        self.name = f"{where.environment.upper()}"


class ByMethod(Sound):
    """It works only for the methods of one service."""

    def picker(self, candidates):
        pick = super().picker(candidates)
        return lambda key, method: pick(key, {"get": "get", "do": "do"}[method])


class Secretive(Sound):
    """It has an optional member that it does not declare."""

    key_argument = "user"


class Anonymous(Sound):
    """Its `key_argument` cannot be an argument's name."""

    key_argument = "user id"


class Impatient(Sound):
    """It fails for calls that took no time."""

    def observe(self, candidate, method, outcome, wait_s, run_s):
        1 / run_s


class LockingObserver(Sound):
    """It observes under a lock that is not reentrant, and waits for it for longer than the suite does."""

    def __init__(self, _options=None, _where=None):
        self.lock, self.tired = threading.Lock(), []

    def observe(self, candidate, method, outcome, wait_s, run_s):
        if self.tired or not self.lock.acquire(timeout=0.6):
            self.tired.append(True)
            return
        str(candidate)
        self.lock.release()


class Boasting(Sound):
    """It declares an unknown capability."""


ALL = frozenset(BALANCER_CAPABILITIES)
FAULTS = [
    (Forgetful, "test_no_replica_is_forgotten", {"spreads"}),
    (FirstOfEquals, "test_no_replica_is_forgotten", {"spreads"}),
    (Unfair, "test_equal_replicas_get_equal_shares", {"spreads"}),
    (UnfairUnderLoad, "test_replicas_that_are_busy_alike_get_equal_shares", {"spreads"}),
    (Foreign, "test_choice_is_always_one_of_the_candidates", set()),
    (Foreign, "test_balancer_is_never_fenced_off", set()),
    (Surprised, "test_key_is_taken_or_refused_as_such", set()),
    (Herding, "test_fullest_replica_is_not_chosen", {"avoids_load"}),
    (Nostalgic, "test_replica_that_left_is_not_chosen", set()),
    (Conservative, "test_replica_that_joined_is_chosen", {"spreads"}),
    (OneSet, "test_picker_of_an_older_set_goes_on", set()),
    (OneForAll, "test_balancers_of_two_services_are_apart", set()),
    (NotThreadSafe, "test_picker_is_safe_from_many_threads", set()),
    (Locking, "test_picker_holds_no_lock", set()),
    (Modulo, "test_only_the_keys_of_a_replica_that_left_move", {"binds_keys"}),
    (Modulo, "test_keys_move_only_to_the_replica_that_joined", {"binds_keys"}),
    (Salted, "test_other_processes_choose_the_same_replica", {"binds_keys"}),
    (Positional, "test_equal_keys_choose_the_same_replica", {"binds_keys"}),
    (Fickle, "test_calls_with_equal_keys_run_on_one_replica", {"binds_keys"}),
    (Crowding, "test_keys_are_shared_by_all_replicas", {"binds_keys"}),
    (Occasional, "test_balancer_is_never_fenced_off", set()),
    (Lazy, "test_lone_caller_reaches_every_replica", {"spreads"}),
    (Homebound, "test_any_service_and_method_will_do", set()),
    (ByMethod, "test_any_service_and_method_will_do", set()),
    (Secretive, "test_optional_members_are_there_as_declared", set()),
    (Sound, "test_optional_members_are_there_as_declared", {"names_key"}),
    (Anonymous, "test_key_argument_is_a_name_or_none", {"names_key"}),
    (Impatient, "test_every_end_of_a_call_is_taken", {"observes"}),
    (LockingObserver, "test_observing_holds_no_lock", {"observes"}),
    (Boasting, "test_declared_capabilities", {"reads_minds"}),
]

#: The ways in which a case fails. A skipped case has found nothing.
FAILURES = (Exception, pytest.fail.Exception)


def suite_of(balancer, capabilities):
    """Return the suite for a balancer that is not installed."""

    class Plugin:
        @hookimpl
        def sage_register_load_balancers(self):
            return [Registration("faulty", balancer, "Of the tests", capabilities=frozenset(capabilities))]

    registry = Registry.of(Plugin(), sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)

    class Suite(BalancerConformance):
        plugin_id = "faulty"
        patience = 0.3 if balancer in {Locking, LockingObserver} else BalancerConformance.patience

        def registry(self):
            return registry

    return Suite()


def run(suite, case):
    """Run one case in the way that pytest does."""
    function = getattr(suite, case)
    assert suite.unsupported(function) is None
    arguments = {"balancer": suite.plugin_id, "record_property": lambda *_: None}
    wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
    with suite.stage():
        function(**{name: value for name, value in arguments.items() if name in wanted})


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """Other interpreters get this one's path, so let them import the balancers of this file."""
    monkeypatch.syspath_prepend(ROOT)


@pytest.mark.parametrize(("fault", "case", "capabilities"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_fault_is_found(fault, case, capabilities):
    """The case that proves a rule fails for the balancer that breaks it."""
    with pytest.raises(FAILURES) as caught:
        run(suite_of(fault, capabilities), case)
    assert "No module named" not in str(caught.value)


CASES = [name for name in dir(BalancerConformance) if name.startswith("test_") and not hasattr(ReplicaCases, name)]


@pytest.mark.parametrize("case", [*CASES, "test_declared_capabilities"])
def test_sound_one_passes(case):
    """All cases pass for the correct balancer."""
    run(suite_of(Complete, ALL), case)


class Sticky(Sound):
    """A correct balancer: a session stays on the replica that its first call went to."""

    def __init__(self, _options=None, _where=None):
        self.sessions = {}

    def picker(self, candidates):
        turn = super().picker(candidates)

        def pick(key, method):
            if key is None:
                return turn(None, method)
            if self.sessions.get(key) not in candidates:
                self.sessions[key] = turn(None, method)
            return self.sessions[key]

        return pick


def test_sessions_may_stay_when_a_replica_joins():
    """`spreads` is about calls without a key: known keys may stay when a replica joins, and new keys reach it."""
    run(suite_of(Sticky, {"spreads"}), "test_replica_that_joined_is_chosen")


def test_every_case_finds_something():
    """Each case for balancers fails for at least one of the faulty balancers."""
    assert {case for _, case, _ in FAULTS} >= set(CASES)


def test_what_is_not_declared_is_reported():
    """A case that needs an undeclared capability is skipped, and the reason names the capability."""
    suite = suite_of(Sound, {"spreads"})
    reason = suite.unsupported(suite.test_keys_are_shared_by_all_replicas)
    assert reason == "declared unsupported: 'faulty' does not declare 'binds_keys'"
