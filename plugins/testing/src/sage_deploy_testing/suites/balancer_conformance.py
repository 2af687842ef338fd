"""
What every load balancer keeps, as cases that run on replicas as it sees them and on real deployed services.

A balancer's own tests inherit them, and get every case that its capabilities allow:

    from sage_deploy_testing.suites.balancer_conformance import BalancerConformance

    class TestMine(BalancerConformance):
        plugin_id = "mine"
        options = {"weight": 2}
"""

from __future__ import annotations

import collections
import datetime as dt
import functools
import os
import pickle
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, ClassVar, Final

from sage_deploy_testing.cases.replica_cases import ReplicaCases
from sage_deploy_testing.doubles.fake_candidate import FakeCandidate, candidates
from sage_deploy_testing.suites.conformance import needs
from sage_deploy_testing.suites.recipe import make, recipe
from sage_deploy_testing.tools.reentry import interrupt, with_switches
from sage_plugins import errors
from sage_plugins.values import Outcome, Where

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from sage_plugins.interfaces import Balancer, Candidate, ObservingBalancer, Picker

__all__ = ["BALANCER_CAPABILITIES", "BalancerConformance"]

#: What balancers can declare, and what each promises.
BALANCER_CAPABILITIES: Final[Mapping[str, str]] = {
    "spreads": "calls without a key are shared evenly by replicas that are loaded alike",
    "avoids_load": "a call without a key never goes to a replica that has more calls than each of the others",
    "binds_keys": "calls with equal keys go to the same replica while none has too many calls, in every process alike",
    "names_key": "it has `key_argument`: the name of the methods' argument that is a call's key, or None",
    "observes": "it has `observe`: it is told how each call ended that it placed",
}

_WHERE: Final = Where("svc", "env")
_SIZES: Final = (1, 2, 3, 5, 8)
_KEYS: Final = tuple(f"key-{number}" for number in range(1000))
#: A key of each kind that callers may give, those included that no balancer can place.
_KINDS: Final[tuple[Hashable | None, ...]] = (
    None, "k", "", b"k", 7, -1, 0, 1.5, True, ("a", 1), uuid.UUID(int=7), frozenset({1}), object(),
    dt.date(2024, 2, 29), str, "\ud800", 2**80,
)  # fmt: skip

#: Run by another interpreter: what it is told to make chooses, as it would in another calling process.
_ELSEWHERE: Final = """
import pickle, sys
path, create, options, where, group, keys = pickle.load(sys.stdin.buffer)
sys.path[:] = path
create, options = pickle.loads(create), pickle.loads(options)
pick = create(options, where).picker(pickle.loads(group))
pickle.dump([pick(key, "get").id for key in keys], sys.stdout.buffer)
"""


class BalancerConformance(ReplicaCases):
    """
    What the router and the callers of a service may rely on, whichever balancer chooses among its replicas.

    Inherit it in a class whose name begins with `Test`, and set `plugin_id`. What the balancer can declare stands in
    `BALANCER_CAPABILITIES`. The services run on target `local`.

    Attributes:
        calls: Calls over which shares are compared.
        slack: By how much of itself a share may be off.
    """

    kind: ClassVar[str] = "load balancer"
    known: ClassVar[Mapping[str, str]] = {**ReplicaCases.known, **BALANCER_CAPABILITIES}
    target = "local"
    strategy = "single"
    calls: int = 4000
    slack: float = 0.25

    def declared(self) -> Mapping[str, str]:
        """What the balancer declares, and the target and strategy of its services."""
        registration = self.registry().find(self.kind, self.plugin_id).registration
        return {**super().declared(), **dict.fromkeys(registration.capabilities, self.plugin_id)}

    def plugin_for(self, capability: str) -> str:
        """The balancer, or else the target or the strategy."""
        return self.plugin_id if capability in BALANCER_CAPABILITIES else super().plugin_for(capability)

    def balancers(self) -> Sequence[str]:
        """The one under test."""
        return [self.plugin_id]

    def balancer(self) -> Balancer:
        """A new balancer, as a service gets it."""
        made: Balancer = make(self, _WHERE)
        return made

    def picker(self, group: tuple[FakeCandidate, ...]) -> Picker:
        """What a new balancer composes for *group*."""
        return self.balancer().picker(group)

    @staticmethod
    def _busy(group: tuple[FakeCandidate, ...], seed: int) -> None:
        """Load the replicas, each seed in another way."""
        for each in group:
            each.inflight = (each.index * 7 + seed) % (each.slots + 1)
            each.waiting = (each.index * 5 + seed) % 3

    def _placeable(self, group: tuple[FakeCandidate, ...]) -> Iterator[Hashable | None]:
        """Those of the kinds of keys that the balancer takes."""
        pick = self.picker(group)
        for key in _KINDS:
            try:
                pick(key, "get")
            except errors.InvalidKeyError:
                continue
            yield key

    # -- the choice --------------------------------------------------------------------------------------------------

    def test_choice_is_always_one_of_the_candidates(self) -> None:
        """Whatever the number of replicas, their loads and the keys: it is one of the objects that were given."""
        for size in _SIZES:
            group = candidates(size, slots=3)
            pick = self.picker(group)
            keys = (None, *self._placeable(group), *_KEYS[:20])
            for seed in range(5):
                self._busy(group, seed)
                for key in keys:
                    chosen = pick(key, "get")
                    assert any(chosen is each for each in group), f"of {group} it chose {chosen!r} for {key!r:.50}"

    def test_key_is_taken_or_refused_as_such(self) -> None:
        """A key of any kind is placed or refused with InvalidKeyError; any other error would fence the balancer off."""
        pick = self.picker(candidates(3))
        for key in _KINDS:
            try:
                pick(key, "get")
            except errors.InvalidKeyError as error:
                assert type(key).__name__ in str(error), "the message says which type it was"  # noqa: PT017 - either way is right

    @needs("spreads")
    def test_no_replica_is_forgotten(self) -> None:
        """Each replica gets calls, whatever the number of replicas and whether or not calls have keys."""
        for size in _SIZES:
            group = candidates(size)
            pick = self.picker(group)
            assert {pick(None, "get").id for _ in range(100 * size)} == {each.id for each in group}
            assert {pick(key, "get").id for key in _KEYS} == {each.id for each in group}

    @needs("spreads")
    def test_equal_replicas_get_equal_shares(self) -> None:
        """Of calls without a key each idle replica gets the same number, within the slack."""
        group = candidates(4)
        pick = self.picker(group)
        seen = collections.Counter(pick(None, "get").id for _ in range(self.calls))
        mean = self.calls / len(group)
        assert all(abs(seen[each.id] - mean) <= self.slack * mean for each in group), seen

    @needs("spreads")
    def test_replicas_that_are_busy_alike_get_equal_shares(self) -> None:
        """Load that is the same everywhere changes nothing."""
        group = candidates(4, slots=3)
        for each in group:
            each.inflight, each.waiting = 3, 2
        pick = self.picker(group)
        seen = collections.Counter(pick(None, "get").id for _ in range(self.calls))
        mean = self.calls / len(group)
        assert all(abs(seen[each.id] - mean) <= self.slack * mean for each in group), seen

    @needs("avoids_load")
    def test_fullest_replica_is_not_chosen(self) -> None:
        """A replica with more calls than each of the others gets no call without a key, wherever it stands."""
        for size in _SIZES[1:]:
            for full in range(size):
                group = candidates(size, slots=4)
                for each in group:
                    each.inflight = 3 if each.index == full else each.index % 2
                pick = self.picker(group)
                assert group[full] not in [pick(None, "get") for _ in range(20 * size)]

    # -- what it is told of the service ------------------------------------------------------------------------------

    def test_any_service_and_method_will_do(self) -> None:
        """It is made for a service in no environment too, and takes the name of any method."""
        made: Balancer = make(self, Where("other"))
        group = candidates(3)
        pick = made.picker(group)
        for method in ("get", "_", "naïve", "x" * 1000):
            assert pick(None, method) in group
            assert pick("k", method) in group

    def test_optional_members_are_there_as_declared(self) -> None:
        """What it has beside `binding` and `picker` is used only if it declares that."""
        balancer = self.balancer()
        assert hasattr(balancer, "key_argument") == self.declares("names_key")
        assert callable(getattr(balancer, "observe", None)) == self.declares("observes")

    @needs("names_key")
    def test_key_argument_is_a_name_or_none(self) -> None:
        """The plan looks for a method that has such an argument."""
        argument = self.balancer().key_argument  # type: ignore[attr-defined] # declared
        assert argument is None or argument.isidentifier()

    @needs("observes")
    def test_every_end_of_a_call_is_taken(self) -> None:
        """Whatever the outcome and the durations, also of a replica that has left: none makes it raise."""
        balancer, group = self._observing(), candidates(3)
        balancer.picker(group)
        pick = balancer.picker(group[1:])
        for outcome in range(len(Outcome.NAMES)):
            for seconds in (0.0, 1e-9, 0.5, 3600.0, 1e9):
                for candidate in group:
                    balancer.observe(candidate, "get", outcome, seconds, seconds)
        assert all(pick(key, "get") in group[1:] for key in (None, *_KEYS[:50]))

    @needs("observes")
    def test_observing_holds_no_lock(self) -> None:
        """A call may end, and another one be made, while the same thread is being told of an end."""
        balancer, group = self._observing(), candidates(3)
        pick = balancer.picker(group)
        observe = functools.partial(balancer.observe, group[0], "get", Outcome.OK, 0.25, 0.5)
        for inside in (functools.partial(pick, None, "get"), observe):
            interrupt(observe, inside, patience=self.patience)

    def _observing(self) -> ObservingBalancer:
        balancer: ObservingBalancer = self.balancer()  # type: ignore[assignment] # declared
        return balancer

    # -- a set that changes ------------------------------------------------------------------------------------------

    def test_replica_that_left_is_not_chosen(self) -> None:
        """After a change of the set only what is in it now is chosen."""
        balancer, group = self.balancer(), candidates(5)
        keys = (None, *_KEYS[:50])
        before = balancer.picker(group)
        assert all(before(key, "get") in group for key in keys)
        for gone in group:
            left = tuple(each for each in group if each is not gone)
            pick = balancer.picker(left)
            assert all(pick(key, "get") in left for key in keys * 4)

    @needs("spreads")
    def test_replica_that_joined_is_chosen(self) -> None:
        """A new one gets its share of the calls, and so do the others."""
        balancer, group = self.balancer(), candidates(4)
        before = balancer.picker(group[:3])
        assert {before(key, "get").id for key in _KEYS} == {each.id for each in group[:3]}
        after = balancer.picker(group)
        assert {after(key, "get").id for key in _KEYS} == {each.id for each in group}
        assert {after(None, "get").id for _ in range(400)} == {each.id for each in group}

    def test_picker_of_an_older_set_goes_on(self) -> None:
        """While the set changes, callers still ask the older picker: it keeps to its own set."""
        balancer, group = self.balancer(), candidates(4)
        older, newer = balancer.picker(group[:2]), balancer.picker(group[2:])
        for key in (None, *_KEYS[:50]) * 2:
            assert older(key, "get") in group[:2]
            assert newer(key, "get") in group[2:]

    def test_balancers_of_two_services_are_apart(self) -> None:
        """Each service has a balancer of its own, which knows nothing of the others' replicas."""
        ours, theirs = candidates(3, "ours"), candidates(2, "theirs")
        pick_ours, pick_theirs = self.picker(ours), self.picker(theirs)
        for key in (None, *_KEYS[:50]):
            assert pick_ours(key, "get") in ours
            assert pick_theirs(key, "get") in theirs

    # -- threads -----------------------------------------------------------------------------------------------------

    def test_picker_is_safe_from_many_threads(self) -> None:
        """Eight threads that choose at once get answers as good as one: no error, and none but the candidates."""
        group = candidates(3)
        pick = self.picker(group)

        def choose(number: int) -> collections.Counter[str]:
            def some() -> collections.Counter[str]:
                return collections.Counter(
                    pick(None if turn % 2 else f"{number}-{turn}", "get").id for turn in range(50)
                )

            return some() + with_switches(some)

        seen: collections.Counter[str] = sum(self.together(choose, 8), collections.Counter())
        assert seen.total() == 800
        assert set(seen) <= {each.id for each in group}

    def test_picker_holds_no_lock(self) -> None:
        """A caller that is interrupted anywhere in it may call the service from there, as signal handlers do."""
        group = candidates(3)
        pick = self.picker(group)
        for key in (None, "k"):
            choose = functools.partial(pick, key, "get")
            assert interrupt(choose, choose, patience=self.patience) in group

    # -- keys --------------------------------------------------------------------------------------------------------

    @needs("binds_keys")
    def test_equal_keys_choose_the_same_replica(self) -> None:
        """Of an idle service always the same one: asked again, from another balancer, in another order."""
        group = candidates(5)
        pick, other, reversed_ = self.picker(group), self.picker(group), self.picker(group[::-1])
        for key in _KEYS:
            assert {pick(key, "get"), pick(key, "get"), other(key, "get"), reversed_(key, "get")} == {pick(key, "get")}

    @needs("binds_keys")
    def test_other_processes_choose_the_same_replica(self) -> None:
        """Another interpreter, whose own hash of strings differs, chooses alike."""
        group = candidates(5)
        pick = self.picker(group)
        create, options = recipe(self)
        told = (sys.path, *map(pickle.dumps, (create, options)), _WHERE, pickle.dumps(group), _KEYS[:100])
        for salt in ("1", "2"):
            done = subprocess.run(  # noqa: S603 - this interpreter
                [sys.executable, "-c", _ELSEWHERE],
                input=pickle.dumps(told),
                env=os.environ | {"PYTHONHASHSEED": salt},
                capture_output=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr.decode()
            assert pickle.loads(done.stdout) == [pick(key, "get").id for key in _KEYS[:100]]  # noqa: S301 - our own child's

    @needs("binds_keys")
    def test_keys_are_shared_by_all_replicas(self) -> None:
        """No replica owns less than a third of the mean, or more than three times of it."""
        group = candidates(4)
        pick = self.picker(group)
        seen = collections.Counter(pick(key, "get").id for key in _KEYS)
        mean = len(_KEYS) / len(group)
        assert all(mean / 3 <= seen[each.id] <= 3 * mean for each in group), seen

    @needs("binds_keys")
    def test_only_the_keys_of_a_replica_that_left_move(self) -> None:
        """The keys of the others stay where they are."""
        balancer, group = self.balancer(), candidates(5)
        before = {key: chosen.id for key, chosen in self._owners(balancer, group)}
        for gone in group:
            left = tuple(each for each in group if each is not gone)
            after = {key: chosen.id for key, chosen in self._owners(balancer, left)}
            assert {key for key in _KEYS if before[key] != after[key]} == {
                key for key in _KEYS if before[key] == gone.id
            }

    @needs("binds_keys")
    def test_keys_move_only_to_the_replica_that_joined(self) -> None:
        """And no more of them than three times its share."""
        balancer, group = self.balancer(), candidates(6)
        before = {key: chosen.id for key, chosen in self._owners(balancer, group[:5])}
        after = {key: chosen.id for key, chosen in self._owners(balancer, group)}
        moved = [key for key in _KEYS if before[key] != after[key]]
        assert {after[key] for key in moved} == {group[5].id}
        assert len(moved) <= 3 * len(_KEYS) / len(group)

    @staticmethod
    def _owners(balancer: Balancer, group: tuple[FakeCandidate, ...]) -> Iterator[tuple[str, Candidate]]:
        pick = balancer.picker(group)
        return ((key, pick(key, "get")) for key in _KEYS)

    # -- deployed ----------------------------------------------------------------------------------------------------

    def test_balancer_is_never_fenced_off(self, balancer: str) -> None:
        """Many threads, with keys and without: the core finds no fault with a choice."""
        service = self.balanced(balancer, monitors=("metrics", "events"))

        def caller(number: int) -> None:
            for turn in range(25):
                handle = service.handle if turn % 2 else service.handle.with_options(key=f"{number}-{turn}")
                handle.do([number, turn])

        self.together(caller, 8)
        events = service.status["monitors"]["events"]["latest"]
        assert [event for event in events if event["kind"] == "balancer_fenced"] == []
        assert service.outcomes == {"ok": 200}

    @needs("spreads")
    def test_lone_caller_reaches_every_replica(self, balancer: str) -> None:
        """Also without load all replicas are warm."""
        service = self.balanced(balancer)
        assert {service.handle.do(turn) for turn in range(100)} == {0, 1, 2}

    @needs("binds_keys")
    def test_calls_with_equal_keys_run_on_one_replica(self, balancer: str) -> None:
        """Each key has one replica; together they use all."""
        service = self.balanced(balancer)
        homes = []
        for key in _KEYS[:50]:
            handle = service.handle.with_options(key=key)
            homes.append({handle.do(turn) for turn in range(3)})
        assert {len(home) for home in homes} == {1}
        assert set.union(*homes) == {0, 1, 2}
