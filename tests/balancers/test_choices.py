"""What each first-party balancer promises beyond the suite for all balancers."""

from __future__ import annotations

import collections
import enum
import math
import os
import subprocess
import sys
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_deploy_balancers.consistent_hash import ConsistentHash
from sage_deploy_balancers.least_loaded import LeastLoaded
from sage_deploy_balancers.options import ConsistentHashOptions, RandomOptions
from sage_deploy_balancers.random_choice import PowerOfTwo, RandomChoice
from sage_deploy_balancers.stable_hash import hash_key, positions
from sage_deploy_testing.doubles.fake_candidate import FakeCandidate, candidates
from sage_plugins import errors

PATIENCE = 20.0
KEYS = [f"key-{number}" for number in range(2000)]


def ring(**options):
    return ConsistentHash(ConsistentHashOptions(**options))


# -- random ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balancer", [RandomChoice, PowerOfTwo])
def test_seed_repeats_the_choices(balancer):
    """The same seed gives the same choices, another seed others."""

    def choices(seed):
        pick = balancer(RandomOptions(seed)).picker(candidates(5))
        return [pick(None, "get").index for _ in range(50)]

    assert choices(1) == choices(1)
    assert choices(1) != choices(2)


@pytest.mark.parametrize("balancer", [RandomChoice, PowerOfTwo])
def test_change_of_the_set_does_not_repeat_the_choices(balancer):
    """When the replicas change, a seed's sequence goes on and does not start again."""
    chance = balancer(RandomOptions(7))
    first, second = (
        [pick(None, "get").index for _ in range(50)] for pick in (chance.picker(candidates(5)) for _ in "12")
    )
    assert first != second


def test_power_of_two_compares_two_different_replicas():
    """`power_of_two` compares two different replicas, so of two the busier one gets no calls."""
    pair = candidates(2)
    pick = PowerOfTwo(RandomOptions(1)).picker(pair)
    for busy, free in (pair, pair[::-1]):
        busy.inflight, free.inflight = 1, 0
        assert {pick(None, "get") for _ in range(100)} == {free}


def test_power_of_two_avoids_the_fullest_only():
    """`power_of_two` avoids only the fullest replica; emptier ones are chosen more often."""
    four = candidates(4)
    for each in four:
        each.inflight = each.index
    pick = PowerOfTwo(RandomOptions(1)).picker(four)
    seen = collections.Counter(pick(None, "get").index for _ in range(6000))
    # Of the six pairs the emptiest replica wins three, the next one two, the third one.
    assert sorted(seen) == [0, 1, 2]
    for index, share in enumerate((3 / 6, 2 / 6, 1 / 6)):
        assert seen[index] / 6000 == pytest.approx(share, abs=0.03)


# -- the hash ----------------------------------------------------------------------------------------------------------


class Colour(enum.StrEnum):
    RED = "red"


class Number(int):
    pass


ALIKE = [(1, True), (1, 1.0), (0, -0.0), ("red", Colour.RED), (5, Number(5)), ((1, "a"), (True, "a")), (2**80, 2.0**80)]
APART = [
    "", "a", "ab", b"", b"a", 1, -1, 10, "1", b"1", 1.5, math.inf, -math.inf, uuid.UUID(int=1), (), ("a",), (("a",),),
    ("a", "b"), ("asb",), ("ab",), ("ab", ""), ("", "ab"), (None,), ("n",), "i1", "n", 2**64, "\ud800", 10**5000,
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_equal_keys_have_one_place(one, other):
    """Keys that are equal in Python have one hash."""
    assert one == other
    assert hash_key(one) == hash_key(other)


def test_different_keys_have_different_places():
    """Keys of different type or grouping have different hashes."""
    assert len({hash_key(key) for key in APART}) == len(APART)


def test_places_are_the_same_in_every_process():
    """Hashes are the same in every process, and must not change in later versions."""
    code = (
        "from sage_deploy_balancers.stable_hash import *;"
        " print(hash_key(('user', 12, b'x', None)), *positions('kv#0', 9))"
    )
    here = f"{hash_key(('user', 12, b'x', None))} {' '.join(map(str, positions('kv#0', 9)))}"
    for salt in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        assert there == here
    assert (hash_key("user-1"), hash_key(1), positions("kv#0", 1)) == PINNED


#: Pinned since the first version: a change would move every user's keys.
PINNED = (3002233467625545139, 12549877395308531466, [10845864243698295035])


@pytest.mark.parametrize(
    "key",
    [object(), frozenset({1}), 1j, ("a", object()), Colour],
    ids=["object", "set", "complex", "object in a tuple", "class"],
)
def test_key_without_a_value_that_others_know_is_refused(key):
    """A key without a canonical form is an error that names its type."""
    with pytest.raises(errors.InvalidKeyError, match=r"type (object|frozenset|complex|EnumType|EnumMeta)"):
        hash_key(key)


# -- the ring ----------------------------------------------------------------------------------------------------------


def owners(balancer, group):
    pick = balancer.picker(group)
    return {key: pick(key, "get").id for key in KEYS}


@pytest.mark.parametrize("number", [2, 3, 5, 8, 12])
def test_only_the_keys_of_a_replica_that_leaves_move(number):
    """When a replica leaves, only its keys move."""
    group = candidates(number)
    before = owners(ring(), group)
    for gone in group:
        after = owners(ring(), tuple(each for each in group if each is not gone))
        moved = {key for key in KEYS if before[key] != after[key]}
        assert moved == {key for key in KEYS if before[key] == gone.id}
        assert len(moved) <= 1.5 * len(KEYS) / number


@settings(deadline=None)
@given(names=st.lists(st.text(max_size=8), min_size=2, max_size=8, unique=True), keys=st.lists(st.text(), max_size=50))
def test_keys_of_others_stay_whatever_the_names(names, keys):
    """Only the leaving replica's keys move, whatever names and keys there are."""
    group = tuple(FakeCandidate(name, index) for index, name in enumerate(names))
    before, after = ring(vnodes=8).picker(group), ring(vnodes=8).picker(group[1:])
    for key in keys:
        assert before(key, "get") is group[0] or after(key, "get") is before(key, "get")


@pytest.mark.parametrize("number", range(1, 13))
def test_keys_move_only_to_the_replica_that_joins(number):
    """When a replica joins, keys move only to it, about its share."""
    before, after = owners(ring(), candidates(number)), owners(ring(), candidates(number + 1))
    moved = {key for key in KEYS if before[key] != after[key]}
    assert {after[key] for key in moved} == {f"kv#{number}"}
    assert len(moved) <= 1.5 * len(KEYS) / (number + 1)


def test_order_of_the_replicas_does_not_matter():
    """The order of the replicas does not change the owner of a key."""
    group = candidates(5)
    assert owners(ring(), group) == owners(ring(), group[::-1])


@pytest.mark.parametrize(("vnodes", "widest"), [(1024, 1.15), (128, 1.35)])
def test_more_points_share_more_evenly(vnodes, widest):
    """More points on the ring share the keys more evenly."""
    seen = collections.Counter(owners(ring(vnodes=vnodes), candidates(5)).values())
    assert max(seen.values()) <= widest * len(KEYS) / 5


# -- the bound ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    number=st.integers(1, 8),
    keys=st.lists(st.integers(0, 3), max_size=60),
    bound=st.sampled_from([1.0, 1.25, 2.0]),
    slots=st.integers(1, 4),
)
def test_no_replica_exceeds_the_bound(number, keys, bound, slots):
    """No replica has more calls, running and waiting, than `load_bound` times the mean, rounded up."""
    group = candidates(number, slots=slots)
    pick = ring(load_bound=bound).picker(group)
    for total, key in enumerate(keys, 1):
        chosen = pick(key, "get")
        if chosen.inflight < chosen.slots:
            chosen.inflight += 1
        else:
            chosen.waiting += 1
        assert chosen.inflight + chosen.waiting <= math.ceil(bound * total / number)


def test_full_replica_passes_a_key_on_and_gets_it_back():
    """A busy replica's key moves to one other replica and returns when the load is gone."""
    group = candidates(4)
    pick = ring().picker(group)
    home = pick("k", "get")
    home.inflight = 1
    second = {pick("k", "get") for _ in range(20)}
    assert len(second) == 1
    assert home not in second
    home.inflight = 0
    assert pick("k", "get") is home


def test_keys_of_one_full_replica_are_not_all_passed_to_one_other():
    """The keys of a busy replica move to different replicas."""
    group = candidates(4)
    pick = ring().picker(group)
    homes = {key: pick(key, "get") for key in KEYS}
    group[0].inflight = 1
    assert {pick(key, "get") for key, home in homes.items() if home is group[0]} == set(group[1:])


def test_without_a_bound_a_key_stays_whatever_the_load():
    """With `load_bound: null` a key stays on its replica, whatever the load."""
    group = candidates(4)
    pick = ring(load_bound=None).picker(group)
    home = pick("k", "get")
    home.inflight, home.waiting = 1, 500
    assert {pick("k", "get") for _ in range(20)} == {home}


def test_call_without_a_key_goes_to_the_least_loaded():
    """A call without a key goes to the least loaded replica."""
    group = candidates(3)
    group[0].inflight = group[2].inflight = 1
    assert {ring().picker(group)(None, "get") for _ in range(20)} == {group[1]}


# -- thousands of replicas ---------------------------------------------------------------------------------------------


class Counted(FakeCandidate):
    """A replica with one call that counts how often its load is read."""

    looks = 0

    @property
    def inflight(self):
        Counted.looks += 1
        return 1

    @inflight.setter
    def inflight(self, _):
        pass


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("balancer", [LeastLoaded(), ConsistentHash(ConsistentHashOptions(vnodes=1))])
def test_choice_among_thousands_of_busy_replicas_looks_at_few(balancer, key):
    """A choice among thousands of busy replicas reads the load of few."""
    pick = balancer.picker(tuple(Counted(f"kv#{number}", number) for number in range(4000)))
    pick(key, "get")
    Counted.looks = 0
    for _ in range(630):
        pick(key, "get")
    assert 0 < Counted.looks <= 630 * 100


def test_least_loaded_of_thousands_spreads_evenly():
    """`least_loaded` spreads calls evenly over a thousand replicas: counts differ by at most two."""
    group = candidates(1000, slots=9)
    pick = LeastLoaded().picker(group)
    for number in range(1, 3001):
        pick(None, "get").inflight += 1
        assert number % 1000 or {each.inflight for each in group} <= {number // 1000 + more for more in (-1, 0, 1)}


def test_bound_holds_for_hundreds_of_replicas():
    """The bound holds for hundreds of replicas too."""
    group = candidates(300, slots=9)
    pick = ring(load_bound=1.25, vnodes=8).picker(group)
    for total in range(1, 1501):
        chosen = pick("k", "get")
        chosen.inflight += 1
        assert chosen.inflight <= math.ceil(1.25 * total / 300)
    assert max(each.inflight for each in group) <= 7


# -- deployed ----------------------------------------------------------------------------------------------------------


class Numbered:
    """A replica that returns its index."""

    def index(self, user_id=None):
        return self.ctx.replica_index

    def run(self, function, user_id=None):
        function()
        return self.ctx.replica_index


@pytest.fixture
def hashed(deploy):
    """Deploys `Numbered` on three replicas behind `consistent_hash`."""

    def make(strategy="single", replicas=3, **options):
        return deploy(
            strategy,
            Numbered,
            replicas=replicas,
            load_balancing=True,
            load_balancer="consistent_hash",
            options={"consistent_hash": options},
        )

    return make


def test_keys_keep_their_replica_under_every_strategy(hashed, strategy):
    """All calls with one key run on one replica, under every strategy, and the keys spread over all replicas."""
    service = hashed(strategy)
    homes = {}
    for key in [f"user-{number}" for number in range(40)] * 3:
        homes.setdefault(key, set()).add(service.handle.with_options(key=key).index())
    assert {len(seen) for seen in homes.values()} == {1}
    assert set.union(*homes.values()) == {0, 1, 2}


def test_keys_count_for_methods_with_limits_too(deploy):
    """Keys work the same for a service with method limits."""
    service = deploy(
        "pool",
        Numbered,
        replicas=3,
        load_balancing=True,
        load_balancer="consistent_hash",
        options={"consistent_hash": {"key": "user_id"}},
        methods={"index": {"max_concurrency": 1}},
    )
    homes = [{service.handle.index(f"user-{user}") for _ in range(3)} for user in range(30)]
    assert {len(home) for home in homes} == {1}
    assert set.union(*homes) == {0, 1, 2}


def test_call_waits_for_its_replica_while_another_is_free(hashed, gate):
    """With `load_bound: null` a call waits for its key's replica while others are free."""
    service = hashed(load_bound=None)
    mine = service.handle.with_options(key="k")
    held = mine.submit("run", gate)
    gate.wait_entered()
    late = mine.submit("index")
    others = {service.handle.index() for _ in range(6)}
    assert not late.done()
    assert service.waiting == 1
    gate.open()
    home = held.result(PATIENCE)
    assert late.result(PATIENCE) == home
    assert home not in others


@pytest.mark.parametrize("methods", [{}, {"index": {"max_concurrency": 1}}], ids=["plain", "with limits"])
def test_call_without_a_key_runs_on_whichever_replica_gets_free_first(deploy, gates, methods):
    """A call without a key runs on the first replica with a free slot, whichever the balancer chose."""
    service = deploy(
        "single", Numbered, replicas=2, load_balancing=True, load_balancer="consistent_hash", methods=methods
    )
    first, second = gates(), gates()
    held = service.handle.submit("run", first)
    service.handle.submit("run", second)
    for gate in (first, second):
        gate.wait_entered()
    waiting = [service.handle.submit("index") for _ in range(2)]
    first.open()
    home = held.result(PATIENCE)
    assert [call.result(PATIENCE) for call in waiting] == [home, home]


def test_bound_sends_a_popular_key_to_another_replica(hashed, gate):
    """If a key's replica is busy, a second call of the key runs on a free one."""
    service = hashed()
    popular = service.handle.with_options(key="k")
    held = [popular.submit("run", gate) for _ in range(2)]
    gate.wait_entered(2)
    gate.open()
    assert len({call.result(PATIENCE) for call in held}) == 2


def test_popular_key_fills_the_queues_evenly(hashed, occupy):
    """If all replicas are busy, the calls of one key wait for all of them, within the bound."""
    service = hashed()
    gate = occupy(service)
    popular = service.handle.with_options(key="k", timeout=PATIENCE)
    waiting = [popular.submit("index") for _ in range(30)]
    assert service.waiting == 30
    lanes = service.env.task("svc")._router.lanes
    assert max(lane.inflight + lane.waiting for lane in lanes) <= math.ceil(1.25 * 33 / 3)
    gate.open()
    assert {call.result(PATIENCE) for call in waiting} == {0, 1, 2}


def test_key_of_an_unknown_type_is_the_callers_error(hashed):
    """A key of an unsupported type raises InvalidKeyError; the balancer is not fenced, and other calls go on."""
    service = hashed()
    with pytest.raises(errors.InvalidKeyError, match=r"svc\.index was not run: .* type object") as caught:
        service.handle.with_options(key=object()).index()
    assert (caught.value.service, caught.value.method) == ("svc", "index")
    assert service.metrics.request_count == 0
    mine = service.handle.with_options(key="k")
    assert len({mine.index() for _ in range(6)}) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"vnodes": 0}, "vnodes"),
        ({"load_bound": 0.9}, "load_bound"),
        ({"load_bound": float("nan")}, "load_bound"),
        ({"key": ""}, "key"),
        ({"keys": "user_id"}, "did you mean 'key'"),
    ],
)
def test_options_are_checked(hashed, options, problem):
    """Wrong options of a balancer are refused."""
    with pytest.raises((errors.PlanError, errors.ConfigError), match=problem):
        hashed(**options)


@pytest.mark.parametrize("balancer", [LeastLoaded(), ConsistentHash(ConsistentHashOptions(vnodes=1))])
def test_memory_grows_with_the_number_of_replicas_and_not_its_square(balancer):
    """Memory grows with the number of replicas, not with its square."""
    import tracemalloc

    replicas = candidates(4000)
    tracemalloc.start()
    try:
        pick = balancer.picker(replicas)
        assert [pick(None, "get").index for _ in range(3)] == [0, 1, 2]
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
