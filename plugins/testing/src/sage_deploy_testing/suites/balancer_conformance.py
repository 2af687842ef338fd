"""
The rules for every load balancer, as cases that run on fake candidates and on real deployed services.

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

#: The capabilities that balancers can declare, and what each promises.
BALANCER_CAPABILITIES: Final[Mapping[str, str]] = {
    "spreads": "calls without a key are spread evenly over replicas with equal load",
    "avoids_load": "a call without a key never goes to a replica that has more calls than each of the others",
    "binds_keys": "equal keys go to the same replica, from every process, while none is overloaded",
    "names_key": "it has `key_argument`: the name of the argument that is the key, or None",
    "observes": "it has `observe`, which gets the end of each call that it placed",
}

_WHERE: Final = Where("svc", "env")
_SIZES: Final = (1, 2, 3, 5, 8)
_KEYS: Final = tuple(f"key-{number}" for number in range(1000))
#: One key of each type that callers may give, including types that no balancer can place.
_KINDS: Final[tuple[Hashable | None, ...]] = (
    None, "k", "", b"k", 7, -1, 0, 1.5, True, ("a", 1), uuid.UUID(int=7), frozenset({1}), object(),
    dt.date(2024, 2, 29), str, "\ud800", 2**80,
)  # fmt: skip

#: A program for another interpreter: it makes the balancer and chooses, as another calling process would.
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
    The rules that the router and the callers can rely on, whichever balancer chooses the replicas.

    Inherit it in a class whose name begins with `Test`, and set `plugin_id`. `BALANCER_CAPABILITIES` lists the
    capabilities that a balancer can declare. The services run on target `local`.

    Attributes:
        calls: Number of calls over which shares are compared.
        slack: How far a share may be from the mean, as a fraction of the mean.
    """

    kind: ClassVar[str] = "load balancer"
    known: ClassVar[Mapping[str, str]] = {**ReplicaCases.known, **BALANCER_CAPABILITIES}
    target = "local"
    strategy = "single"
    calls: int = 4000
    slack: float = 0.25

    def declared(self) -> Mapping[str, str]:
        """Return the capabilities of the balancer, and of the target and strategy of its services."""
        registration = self.registry().find(self.kind, self.plugin_id).registration
        return {**super().declared(), **dict.fromkeys(registration.capabilities, self.plugin_id)}

    def plugin_for(self, capability: str) -> str:
        """Return the ID of the balancer, the target or the strategy."""
        return self.plugin_id if capability in BALANCER_CAPABILITIES else super().plugin_for(capability)

    def balancers(self) -> Sequence[str]:
        """Return the balancer under test only."""
        return [self.plugin_id]

    def balancer(self) -> Balancer:
        """Return a new balancer, as a service gets it."""
        made: Balancer = make(self, _WHERE)
        return made

    def picker(self, group: tuple[FakeCandidate, ...]) -> Picker:
        """Return a picker of a new balancer for *group*."""
        return self.balancer().picker(group)

    @staticmethod
    def _busy(group: tuple[FakeCandidate, ...], seed: int) -> None:
        """Load the replicas differently for each seed."""
        for each in group:
            each.inflight = (each.index * 7 + seed) % (each.slots + 1)
            each.waiting = (each.index * 5 + seed) % 3

    def _placeable(self, group: tuple[FakeCandidate, ...]) -> Iterator[Hashable | None]:
        """Yield the keys in `_KINDS` that the balancer accepts."""
        pick = self.picker(group)
        for key in _KINDS:
            try:
                pick(key, "get")
            except errors.InvalidKeyError:
                continue
            yield key

    # -- the choice --------------------------------------------------------------------------------------------------

    def test_choice_is_always_one_of_the_candidates(self) -> None:
        """The balancer chooses one of the given objects, whatever the number of replicas, their loads and the keys."""
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
        """The balancer places a key of any type or raises InvalidKeyError. Any other error would disable it."""
        pick = self.picker(candidates(3))
        for key in _KINDS:
            try:
                pick(key, "get")
            except errors.InvalidKeyError as error:
                assert type(key).__name__ in str(error), "the message says which type it was"  # noqa: PT017 - either way is right

    @needs("spreads")
    def test_no_replica_is_forgotten(self) -> None:
        """Every replica gets calls, for any number of replicas, both with keys and without."""
        for size in _SIZES:
            group = candidates(size)
            pick = self.picker(group)
            assert {pick(None, "get").id for _ in range(100 * size)} == {each.id for each in group}
            assert {pick(key, "get").id for key in _KEYS} == {each.id for each in group}

    @needs("spreads")
    def test_equal_replicas_get_equal_shares(self) -> None:
        """Idle replicas get equal shares of the calls without a key, within `slack`."""
        group = candidates(4)
        pick = self.picker(group)
        seen = collections.Counter(pick(None, "get").id for _ in range(self.calls))
        mean = self.calls / len(group)
        assert all(abs(seen[each.id] - mean) <= self.slack * mean for each in group), seen

    @needs("spreads")
    def test_replicas_that_are_busy_alike_get_equal_shares(self) -> None:
        """Replicas with equal load get equal shares of the calls without a key, within `slack`."""
        group = candidates(4, slots=3)
        for each in group:
            each.inflight, each.waiting = 3, 2
        pick = self.picker(group)
        seen = collections.Counter(pick(None, "get").id for _ in range(self.calls))
        mean = self.calls / len(group)
        assert all(abs(seen[each.id] - mean) <= self.slack * mean for each in group), seen

    @needs("avoids_load")
    def test_fullest_replica_is_not_chosen(self) -> None:
        """A replica with more calls than each of the others gets no call without a key, wherever it is in the group."""
        for size in _SIZES[1:]:
            for full in range(size):
                group = candidates(size, slots=4)
                for each in group:
                    each.inflight = 3 if each.index == full else each.index % 2
                pick = self.picker(group)
                assert group[full] not in [pick(None, "get") for _ in range(20 * size)]

    # -- what the balancer learns of the service -----------------------------------------------------------------------

    def test_any_service_and_method_will_do(self) -> None:
        """The balancer works for a service without an environment, and with any method name."""
        made: Balancer = make(self, Where("other"))
        group = candidates(3)
        pick = made.picker(group)
        for method in ("get", "_", "naïve", "x" * 1000):
            assert pick(None, method) in group
            assert pick("k", method) in group

    def test_optional_members_are_there_as_declared(self) -> None:
        """The balancer has `key_argument` and `observe` exactly if it declares them."""
        balancer = self.balancer()
        assert hasattr(balancer, "key_argument") == self.declares("names_key")
        assert callable(getattr(balancer, "observe", None)) == self.declares("observes")

    @needs("names_key")
    def test_key_argument_is_a_name_or_none(self) -> None:
        """`key_argument` is None or a valid argument name: the plan looks for a method with such an argument."""
        argument = self.balancer().key_argument  # type: ignore[attr-defined] # declared
        assert argument is None or argument.isidentifier()

    @needs("observes")
    def test_every_end_of_a_call_is_taken(self) -> None:
        """`observe` accepts every outcome and duration without an exception, also for a replica that has left."""
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
        """`observe` holds no lock: a call can be made, or end, while the same thread is in `observe`."""
        balancer, group = self._observing(), candidates(3)
        pick = balancer.picker(group)
        observe = functools.partial(balancer.observe, group[0], "get", Outcome.OK, 0.25, 0.5)
        for inside in (functools.partial(pick, None, "get"), observe):
            interrupt(observe, inside, patience=self.patience)

    def _observing(self) -> ObservingBalancer:
        balancer: ObservingBalancer = self.balancer()  # type: ignore[assignment] # declared
        return balancer

    # -- changes of the replicas ---------------------------------------------------------------------------------------

    def test_replica_that_left_is_not_chosen(self) -> None:
        """After a change of the set, the new picker chooses only replicas in the new set."""
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
        """After a replica joins, it gets calls, and so do the others. Known keys may stay where they were."""
        balancer, group = self.balancer(), candidates(4)
        before = balancer.picker(group[:3])
        assert {before(key, "get").id for key in _KEYS} == {each.id for each in group[:3]}
        after = balancer.picker(group)
        assert {after(f"new {key}", "get").id for key in _KEYS} == {each.id for each in group}
        assert {after(None, "get").id for _ in range(400)} == {each.id for each in group}

    def test_picker_of_an_older_set_goes_on(self) -> None:
        """Callers may still use an older picker while the set changes: it chooses only from its own set."""
        balancer, group = self.balancer(), candidates(4)
        older, newer = balancer.picker(group[:2]), balancer.picker(group[2:])
        for key in (None, *_KEYS[:50]) * 2:
            assert older(key, "get") in group[:2]
            assert newer(key, "get") in group[2:]

    def test_balancers_of_two_services_are_apart(self) -> None:
        """Each service has its own balancer, which does not know other services' replicas."""
        ours, theirs = candidates(3, "ours"), candidates(2, "theirs")
        pick_ours, pick_theirs = self.picker(ours), self.picker(theirs)
        for key in (None, *_KEYS[:50]):
            assert pick_ours(key, "get") in ours
            assert pick_theirs(key, "get") in theirs

    # -- threads -----------------------------------------------------------------------------------------------------

    def test_picker_is_safe_from_many_threads(self) -> None:
        """Eight threads can choose at once: no exception, and every choice is a candidate."""
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
        """The picker holds no lock: a signal handler that interrupts it anywhere may call the service."""
        group = candidates(3)
        pick = self.picker(group)
        for key in (None, "k"):
            choose = functools.partial(pick, key, "get")
            assert interrupt(choose, choose, patience=self.patience) in group

    # -- keys --------------------------------------------------------------------------------------------------------

    @needs("binds_keys")
    def test_equal_keys_choose_the_same_replica(self) -> None:
        """For an idle service, equal keys choose the same replica, also in another balancer and another order."""
        group = candidates(5)
        pick, other, reversed_ = self.picker(group), self.picker(group), self.picker(group[::-1])
        for key in _KEYS:
            assert {pick(key, "get"), pick(key, "get"), other(key, "get"), reversed_(key, "get")} == {pick(key, "get")}

    @needs("binds_keys")
    def test_other_processes_choose_the_same_replica(self) -> None:
        """Another interpreter, with a different string hash, chooses the same replicas."""
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
        """Each replica owns between a third and three times the mean number of keys."""
        group = candidates(4)
        pick = self.picker(group)
        seen = collections.Counter(pick(key, "get").id for key in _KEYS)
        mean = len(_KEYS) / len(group)
        assert all(mean / 3 <= seen[each.id] <= 3 * mean for each in group), seen

    @needs("binds_keys")
    def test_only_the_keys_of_a_replica_that_left_move(self) -> None:
        """If a replica leaves, only its keys move."""
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
        """If a replica joins, keys move only to it, and at most three times its fair share."""
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

    # -- deployed services ---------------------------------------------------------------------------------------------

    def test_balancer_is_never_fenced_off(self, balancer: str) -> None:
        """With many threads, with keys and without, the core finds no invalid choice and keeps using the balancer."""
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
        """A single caller without keys reaches every replica, so all replicas stay warm."""
        service = self.balanced(balancer)
        assert {service.handle.do(turn) for turn in range(100)} == {0, 1, 2}

    @needs("binds_keys")
    def test_calls_with_equal_keys_run_on_one_replica(self, balancer: str) -> None:
        """All calls with one key run on one replica. Different keys together use all replicas."""
        service = self.balanced(balancer)
        homes = []
        for key in _KEYS[:50]:
            handle = service.handle.with_options(key=key)
            homes.append({handle.do(turn) for turn in range(3)})
        assert {len(home) for home in homes} == {1}
        assert set.union(*homes) == {0, 1, 2}
