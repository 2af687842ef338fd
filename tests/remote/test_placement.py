"""Which node each replica goes to, and why not to the others. No Ray runs."""

from __future__ import annotations

import re
from collections import Counter
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_deploy_remote.placement.decision import Running, Spot, needs, place
from sage_deploy_remote.placement.nodes import Node, Resources, unique_names
from sage_deploy_remote.placement.selection import AnyNode, NamedNodes, labelled_nodes
from sage_plugins import ServiceDeploymentConfig
from sage_plugins.values import Refused

MIB = 2**20


def specs(count=1, *, first=0, **config):
    config = ServiceDeploymentConfig(replicas=count, load_balancing=count > 1, **config)
    return [SimpleNamespace(index=index, config=config) for index in range(first, first + count)]


def node(name, cpu=4.0, *, gpu=0, free=None, id=None, **labels):
    total = Resources(cpu, 4096 * MIB, gpu)
    return Node(id or f"id-of-{name}", name, name, name, labels, total, total._replace(**(free or {})))


def where(found):
    return [spot.placed.node if isinstance(spot, Spot) else spot.rule for spot in found]


# -- what a replica needs ----------------------------------------------------------------------------------------------


def test_replica_reserves_one_core_unless_the_configuration_says_otherwise():
    assert needs(ServiceDeploymentConfig()) == (1.0, 0, 0)
    assert needs(ServiceDeploymentConfig(cpu_cores=0)) == (0.0, 0, 0)
    assert needs(ServiceDeploymentConfig(cpu_cores=0.25, memory_mb=2, gpu_count=0.5)) == (0.25, 2 * MIB, 0.5)


def test_replica_without_a_reservation_goes_to_a_full_node():
    """A replica with `cpu_cores=0` fits on a node without free cores; one with the default does not."""
    full = node("full", free={"cpu": 0.0})
    assert where(place(specs(cpu_cores=0), [full], AnyNode())) == ["full"]
    assert where(place(specs(), [full], AnyNode())) == ["E806"]


def test_fractions_add_up():
    """Fractions are exact: ten times 0.1 is one core, and 0.0003 fits three times into 0.0009."""
    assert where(place(specs(11, cpu_cores=0.1), [node("a", cpu=1.0)], AnyNode())) == ["a"] * 10 + ["E806"]
    assert where(place(specs(4, cpu_cores=0.0003), [node("a", cpu=0.0009)], AnyNode())) == ["a"] * 3 + ["E806"]


# -- the order ---------------------------------------------------------------------------------------------------------


def test_spread_takes_the_node_with_the_fewest_replicas_then_the_most_free_cores_then_the_name():
    nodes = [node("c", cpu=4), node("b", cpu=8), node("a", cpu=4)]
    assert where(place(specs(4), nodes, AnyNode())) == ["b", "a", "c", "b"]


def test_pack_takes_the_node_with_the_most_replicas_then_the_fewest_free_cores():
    nodes = [node("a", cpu=8), node("b", cpu=2), node("c", cpu=4)]
    assert where(place(specs(5, spread="pack"), nodes, AnyNode())) == ["b", "b", "c", "c", "c"]


def test_reason_says_what_decided_for_the_node_and_against_each_other():
    """The reason names the rule that chose the node; each other node has the rule that decided against it."""
    nodes = [node("a"), node("b", cpu=8), node("c", cpu=8), node("d", cpu=8)]
    running = [Running("id-of-d", 5)]
    placed = place(specs(), nodes, AnyNode(), running)[0].placed
    assert placed.reason == ("has 0 replicas of the service and 8 of 8 CPUs free like others, and comes first by name")
    assert placed.refused == {
        "a": "has room, but fewer CPUs free, 4 of 4",
        "c": "has room, but comes later by name",
        "d": "has room, but more replicas of the service, 1",
    }


def test_replicas_that_run_count_for_the_spread():
    """Running replicas count in `spread`, so new ones go to the other node."""
    nodes = [node("a", cpu=8), node("b")]
    running = [Running("id-of-a", 0), Running("id-of-a", 1)]
    assert where(place(specs(2, first=2), nodes, AnyNode(), running)) == ["b", "b"]


def test_replica_that_is_replaced_does_not_count():
    """A replica that is replaced does not count towards `max_replicas_per_node`."""
    only = node("a")
    one = specs(first=0, max_replicas_per_node=1)
    assert where(place(one, [only], AnyNode(), [Running("id-of-a", 0)])) == ["a"]
    assert where(place(one, [only], AnyNode(), [Running("id-of-a", 1)])) == ["E806"]


def test_named_node_is_taken_although_another_has_more_room():
    nodes = [node("a", cpu=1), node("b", cpu=64)]
    found = place(specs(2), nodes, NamedNodes(("a", "b")))
    assert where(found) == ["a", "b"]
    assert found[0].placed.reason == "target_nodes.0 names it"


def test_replica_does_not_move_when_its_named_node_is_full():
    """If the named node is full, its replica is refused, although other nodes have room."""
    found = place(specs(3), [node("a", cpu=1), node("b")], NamedNodes(("a", "b")))
    assert where(found) == ["a", "b", "E806"]
    assert found[2].nodes["a"] == "has 0 of 1 CPU free"
    assert found[2].nodes["b"] == "is not 'a', which target_nodes has for this replica"


def test_nodes_of_one_name_have_different_names_in_the_plan():
    nodes = [node("twin", id="1111111122"), node("twin", id="2222222233")]
    found = place(specs(2), nodes, AnyNode())
    assert where(found) == ["twin (11111111)", "twin (22222222)"]
    assert [spot.node_id for spot in found] == ["1111111122", "2222222233"]


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "rule", "reason", "why"),
    [
        ({"cpu_cores": 5}, "E802", "it needs 5 CPUs, more than any node that may hold it has", "has only 4 CPUs"),
        ({"memory_mb": 5000, "cpu_cores": 0}, "E802", "it needs 5000 MiB memory", "has only 4096 MiB memory"),
        ({"gpu_count": 1}, "E803", "it needs 1 CPU and 1 GPU, and no node that may hold it has a GPU", "has no GPU"),
        ({"cpu_cores": 4}, "E806", "has room for it now", "has 1.5 of 4 CPUs free"),
        ({"memory_mb": 4096}, "E806", "has room for it now", "has 1024 of 4096 MiB memory free"),
        (
            {"memory_mb": 4096, "cpu_cores": 2},
            "E806",
            "it needs 2 CPUs and 4096 MiB memory",
            "has 1.5 of 4 CPUs free, has 1024 of 4096 MiB memory free",
        ),
        (
            {"cpu_cores": 5, "gpu_count": 1},
            "E803",
            "and no node that may hold it has a GPU",
            "has only 4 CPUs, has no GPU",
        ),
    ],
)
def test_replica_without_a_place_is_refused_with_the_reason_for_each_node(config, rule, reason, why):
    """A replica without room on any node is refused with its rule, its needs and a reason for each node."""
    a = node("a", free={"cpu": 1.5, "memory": 1024 * MIB})
    (found,) = place(specs(**config), [a], AnyNode())
    assert isinstance(found, Refused)
    assert found.rule == rule
    assert reason in found.reason
    assert found.nodes == {"a": why}
    assert found.line == f"error {rule}: {found.reason}"


def test_node_that_lacks_a_byte_does_not_seem_to_have_what_is_asked_for():
    """A node that lacks one byte is not reported with a rounded number that looks sufficient."""
    a = node("a", free={"memory": 1024 * MIB - 1})
    (found,) = place(specs(memory_mb=1024), [a], AnyNode())
    assert found.nodes == {"a": "has 1023.9999 of 4096 MiB memory free"}


def test_too_few_now_is_not_too_few_for_ever():
    """If some node could hold the replica later, the refusal is E806 (no room now), not E802 (never)."""
    nodes = [node("big", free={"cpu": 0.0}), node("small", cpu=1)]
    (found,) = place(specs(cpu_cores=2), nodes, AnyNode())
    assert found.rule == "E806"
    assert found.nodes == {"big": "has 0 of 4 CPUs free", "small": "has only 1 CPU"}


def test_most_replicas_of_a_node_are_kept():
    """At most `max_replicas_per_node` replicas go to a node; the next one is refused."""
    found = place(specs(5, max_replicas_per_node=2), [node("a"), node("b")], AnyNode())
    assert where(found) == ["a", "b", "a", "b", "E806"]
    assert found[4].nodes == dict.fromkeys("ab", "already has 2 of at most 2 replicas")


def test_share_of_a_gpu_lies_on_one_gpu():
    """A share of a GPU stays on one GPU: two GPUs hold two replicas of 0.6, not three."""
    found = place(specs(3, gpu_count=0.6), [node("a", gpu=2)], AnyNode())
    assert where(found) == ["a", "a", "E806"]
    assert found[2].nodes == {"a": "has 2 GPUs with room for 1 such replica each"}


def test_configuration_that_allows_no_node_is_refused():
    """If no node matches `node_selector`, the replica is refused with the label that each node lacks."""
    (found,) = place(specs(), [node("a", zone="b")], labelled_nodes({"zone": "a"}))
    assert found == Refused(
        "no live node belongs to node_selector", {"a": "lacks label zone=a (it has zone=b)"}, "E801"
    )


# -- whatever the cluster ----------------------------------------------------------------------------------------------

TENTHS = st.integers(0, 40).map(lambda tenths: tenths / 10)
LABELS = st.dictionaries(st.sampled_from(["zone", "tier"]), st.sampled_from(["a", "b"]))


@st.composite
def clusters(draw, most=5):
    nodes = []
    for number in range(draw(st.integers(0, most))):
        total = Resources(draw(TENTHS), draw(st.integers(0, 8)) * MIB, draw(st.integers(0, 2)))
        free = Resources(
            min(draw(TENTHS), total.cpu),
            min(draw(st.integers(0, 8)) * MIB, total.memory),
            draw(st.integers(0, total.gpu)),
        )
        name = draw(st.sampled_from(["x", "y", f"n{number}"]))
        nodes.append(Node(f"{number}-{name}", name, "host", "10.0.0.1", draw(LABELS), total, free))
    return draw(st.permutations(nodes))


CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "cpu_cores": st.sampled_from([0, 0.1, 0.3, 0.5, 1, 2]),
        "memory_mb": st.integers(1, 4),
        "gpu_count": st.sampled_from([0, 0.3, 0.5, 1, 2]),
        "max_replicas_per_node": st.integers(1, 3),
        "spread": st.sampled_from(["spread", "pack"]),
    },
)
REQUIREMENTS = st.dictionaries(st.sampled_from(["zone", "tier"]), st.sampled_from(["a", "!a", "exists"]))
SELECTORS = st.one_of(st.just(AnyNode()), st.builds(labelled_nodes, REQUIREMENTS))
COUNTS = st.integers(1, 12)


class Case(NamedTuple):
    """All inputs of a placement."""

    nodes: list[Node]
    specs: list[Any]
    selector: Any
    running: list[Running]

    def place(self):
        return place(self.specs, self.nodes, self.selector, self.running)

    @property
    def config(self):
        return self.specs[0].config

    def stay(self, node, index):
        """Count the replicas that stay on a node: those that the one at *index* does not replace."""
        return sum(each.node_id == node.id and each.index != index for each in self.running)


@st.composite
def cases(draw, selectors=SELECTORS):
    nodes = draw(clusters())
    running = []
    if nodes:
        somewhere = st.builds(Running, st.sampled_from([each.id for each in nodes]), st.integers(0, 15))
        running = draw(st.lists(somewhere, max_size=4))
    return Case(nodes, specs(draw(COUNTS), **draw(CONFIGS)), draw(selectors), running)


def placed(found):
    return [spot for spot in found if isinstance(spot, Spot)]


@given(cases())
def test_never_more_than_is_free_or_allowed(case):
    """On each node the replicas need no more than is free and allowed, and only selected nodes get any."""
    found = case.place()

    assert len(found) == len(case.specs)
    need, most = needs(case.config), case.config.max_replicas_per_node
    for each in case.nodes:
        here = [spec for spec, spot in zip(case.specs, found, strict=True) if getattr(spot, "node_id", "") == each.id]
        for wants, has in zip(need, each.free, strict=True):
            assert round(wants * len(here), 6) <= round(has, 6)
        for number, spec in enumerate(here, 1):
            assert most is None or number + case.stay(each, spec.index) <= most
        assert not here or each in case.selector.select(0, case.nodes).nodes


@given(cases(), st.randoms(use_true_random=False))
def test_order_of_the_nodes_does_not_matter(case, random):
    """The placement depends neither on the order of the nodes nor on that of the running replicas."""
    shuffled = case._replace(
        nodes=random.sample(case.nodes, len(case.nodes)), running=random.sample(case.running, len(case.running))
    )
    assert shuffled.place() == case.place()


@given(clusters(), CONFIGS, COUNTS)
def test_spread_is_even_where_there_is_room(nodes, config, count):
    """A node has two replicas more than another only if the other has no room for one more."""
    config |= {"spread": "spread"}
    after = Counter(spot.node_id for spot in placed(place(specs(count, **config), nodes, AnyNode())))
    for fewer in nodes:
        if any(after[more.id] - after[fewer.id] >= 2 for more in nodes):
            filled = place(specs(after[fewer.id] + 1, **config), [fewer], AnyNode())
            assert isinstance(filled[-1], Refused)


@given(cases())
def test_every_node_is_the_place_or_has_its_reason(case):
    """Each replica has its node and a reason for every other node. The reasons of refusals are true."""
    names = unique_names(case.nodes)
    taken: Counter[str] = Counter()
    for spec, each in zip(case.specs, case.place(), strict=True):
        if isinstance(each, Spot):
            assert each.placed.node == names[each.node_id]
            assert each.placed.reason
            assert set(each.placed.refused) == set(names.values()) - {each.placed.node}
            taken[each.node_id] += 1
            continue
        assert set(each.nodes) == set(names.values())
        allowed = case.selector.select(0, case.nodes).nodes
        for node in case.nodes:
            reasons = each.nodes[names[node.id]]
            if node in allowed:
                here = taken[node.id]
                assert_true(reasons, node, spec.config, here, here + case.stay(node, spec.index))
            else:
                assert "label" in reasons


def assert_true(reasons, node, config, taken, replicas):
    need, most = needs(config), config.max_replicas_per_node
    left = Resources(*(round(has - taken * wants, 6) for has, wants in zip(node.free, need, strict=True)))
    true = {
        "has no CPU": node.total.cpu == 0 < need.cpu,
        "has no memory": node.total.memory == 0 < need.memory,
        "has no GPU": node.total.gpu == 0 < need.gpu,
        r"has only \S+ CPUs?": node.total.cpu < need.cpu,
        r"has only \S+ MiB memory": node.total.memory < need.memory,
        r"has only \S+ GPUs?": node.total.gpu < need.gpu,
        r"has \S+ of \S+ CPUs? free": left.cpu < need.cpu <= node.total.cpu,
        r"has \S+ of \S+ MiB memory free": left.memory < need.memory <= node.total.memory,
        r"has \S+ of \S+ GPUs? free": left.gpu < need.gpu <= node.total.gpu,
        r"has \S+ GPUs? with room for \S+ such replicas? each": 0 < need.gpu < 1,
        r"already has \S+ of at most \S+ replicas?": most is not None and replicas >= most,
    }
    for reason in reasons.split(", "):
        assert [is_true for words, is_true in true.items() if re.fullmatch(words, reason)] == [True], reason


@given(clusters(4), CONFIGS, SELECTORS, COUNTS, clusters(1))
def test_one_more_node_refuses_nobody(nodes, config, selector, count, more):
    """A replica that gets a node in a cluster also gets one, maybe another, if a node is added."""
    before = place(specs(count, **config), nodes, selector)
    more = [each._replace(id=f"more-{each.id}") for each in more]
    after = place(specs(count, **config), [*nodes, *more], selector)
    assert all(isinstance(new, Spot) for old, new in zip(before, after, strict=True) if isinstance(old, Spot))
