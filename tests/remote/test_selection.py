"""Which nodes of a cluster a configuration allows, by names, labels and groups. No Ray runs."""

from __future__ import annotations

import re

import pytest

from sage_deploy_remote.placement.label_selectors import SelectorError, parse_requirement
from sage_deploy_remote.placement.nodes import Node, Resources, unique_names
from sage_deploy_remote.placement.selection import AnyNode, NamedNodes, labelled_nodes

SOME = Resources(4, 2**30, 0)


def node(id, name=None, *, hostname="machine", address="10.0.0.1", **labels):
    return Node(id, name or id, hostname, address, labels, SOME, SOME)


A = node("aaaaaaaaaaaa", "node-a", hostname="host-a", address="10.0.0.1", zone="a")
B = node("bbbbbbbbbbbb", "node-b", hostname="host-b", address="10.0.0.2", zone="b", tier="gpu")
C = node("cccccccccccc", "node-c", hostname="host-c", address="10.0.0.3")
NODES = [A, B, C]


def ids(selection):
    return [each.id[0] for each in selection.nodes]


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["node-b", "bbbbbbbbbbbb", "host-b", "10.0.0.2"])
def test_node_is_found_by_name_id_host_name_and_address(name):
    assert ids(NamedNodes((name,)).select(0, NODES)) == ["b"]


def test_name_of_one_node_beats_the_id_host_name_and_address_of_another():
    """A name is looked up as name, then ID, host name and IP address of a node."""
    tricky = [
        node("1", "node-1", hostname="x", address="x"),
        node("x", "node-2", hostname="y", address="y"),
        node("3", "x"),
        node("4", "node-4", hostname="z", address="y"),
        node("5", "node-5", hostname="w", address="z"),
    ]

    def found(name, nodes):
        return [each.id for each in NamedNodes((name,)).select(0, nodes).nodes]

    assert found("x", tricky) == ["3"]
    assert found("x", tricky[:2]) == ["x"]
    assert found("x", tricky[:1]) == ["1"]
    assert found("y", tricky) == ["x"]
    assert found("z", tricky) == ["4"]


def test_replicas_take_the_named_nodes_in_turn():
    """Replicas use the named nodes in turn; the other nodes are excluded."""
    names = NamedNodes(("node-c", "node-a"))
    assert [ids(names.select(index, NODES)) for index in range(4)] == [["c"], ["a"], ["c"], ["a"]]
    assert names.select(3, NODES).reason == "target_nodes.1 names it"
    assert names.select(3, NODES).excluded.keys() == {"node-b", "node-c"}


def test_unknown_name_is_refused_with_the_nearest_and_the_live_nodes():
    selection = NamedNodes(("node-d",)).select(0, [A, node("x", "gpu-01")])
    assert selection.nodes == ()
    assert selection.failure == ("no live node is called 'node-d': did you mean 'node-a'? live nodes: gpu-01, node-a")
    assert selection.excluded.keys() == {"node-a", "gpu-01"}


def test_long_list_of_live_nodes_is_cut():
    failure = NamedNodes(("nowhere",)).select(0, [node(str(number)) for number in range(100, 200)]).failure
    assert failure.endswith("118, 119 and 80 more")


@pytest.mark.parametrize(("name", "words"), [("twin", "name"), ("machine", "host name"), ("10.0.0.1", "IP address")])
def test_name_of_several_nodes_is_ambiguous(name, words):
    """A name that fits several nodes is refused with their IDs: nodes on one machine share host name and address."""
    twins = [node("2222", "twin"), node("1111", "twin")]
    selection = NamedNodes((name,)).select(0, twins)
    assert selection.nodes == ()
    assert f"{name!r} is ambiguous, 2 live nodes have that {words}" in selection.failure
    assert selection.failure.endswith("name one by its ID: 1111, 2222")
    assert NamedNodes(("2222",)).select(0, twins).nodes == (twins[0],)


def test_unique_names_tell_nodes_of_one_name_apart():
    """Nodes with the same name get enough of their ID appended to tell them apart."""
    nodes = [node("12345678aa", "x"), node("12345678bb", "x"), node("99999999cc", "x"), node("dd", "y")]
    assert list(unique_names(nodes).values()) == ["x (12345678aa)", "x (12345678bb)", "x (99999999)", "y"]


@pytest.mark.parametrize("selector", [AnyNode(), NamedNodes(("a",)), labelled_nodes({"zone": "a"})])
def test_cluster_without_nodes_is_said(selector):
    """An empty cluster is reported as the reason, for every selector."""
    assert "the cluster has no live node" in selector.select(0, []).failure


def test_any_node_allows_all():
    assert ids(AnyNode().select(0, NODES)) == ["a", "b", "c"]


# -- labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "matching"),
    [
        ("a", "a"),
        ("!a", "bc"),
        ("in(a, b)", "ab"),
        ("in(a,b)", "ab"),
        ("in( a )", "a"),
        ("!in(a, b)", "c"),
        ("exists", "ab"),
        ("!exists", "c"),
        ("in(exists)", ""),
    ],
)
def test_selector_of_a_label(text, matching):
    """A requirement on a label selects these nodes. As in Ray, a negated one also selects nodes without the label."""
    assert "".join(ids(labelled_nodes({"zone": text}).select(0, NODES))) == matching


@pytest.mark.parametrize("text", ["a", "!a", "in(a, b)", "!in(a, b)", "in(c)", "!in(b)"])
def test_selector_means_what_it_means_to_ray(text):
    """Ray accepts these selectors too; both parsers take them."""
    label_utils = pytest.importorskip("ray._private.label_utils")
    assert label_utils.LABEL_SELECTOR_REGEX.match(text)
    parse_requirement("zone", text)


def test_all_labels_must_fit():
    assert ids(labelled_nodes({"zone": "exists", "tier": "gpu"}).select(0, NODES)) == ["b"]


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ("a", {"node-b": "lacks label zone=a (it has zone=b)", "node-c": "lacks label zone=a"}),
        ("in(a, d)", {"node-b": "lacks label zone in (a, d) (it has zone=b)", "node-c": "lacks label zone in (a, d)"}),
        ("exists", {"node-c": "lacks label zone"}),
        ("!a", {"node-a": "has label zone=a"}),
        ("!exists", {"node-a": "has label zone=a", "node-b": "has label zone=b"}),
    ],
)
def test_excluded_node_has_its_reason(text, reasons):
    assert labelled_nodes({"zone": text}).select(0, NODES).excluded == reasons


def test_nobody_with_the_labels_is_said():
    """If no node matches the labels, the failure says so, and every node is excluded."""
    selection = labelled_nodes({"zone": "d"}).select(0, NODES)
    assert selection.failure == "no live node belongs to node_selector"
    assert selection.excluded.keys() == {"node-a", "node-b", "node-c"}


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("in(a", 5, "expected ',' or ')' at character 5, found the end"),
        ("in()", 4, "expected a value of letters, digits, '-', '_' and '.' at character 4, found ')'"),
        ("in(a, ", 7, "a value"),
        ("in(a b)", 6, "expected ',' or ')' at character 6, found 'b'"),
        ("in(a) ", 6, "nothing more"),
        ("!!a", 2, "a value"),
        ("!", 2, "found the end"),
        ("a_", 2, "expected nothing more at character 2, found '_'"),
        ("-a", 1, "a value"),
        ("a b", 2, "nothing more"),
        ("a" * 64, 64, "nothing more"),
        ("not_in(a)", 7, "expected nothing more at character 7, found '('"),
    ],
)
def test_wrong_selector_is_refused_with_its_position(text, position, words):
    """A wrong selector is refused with the position of the error."""
    with pytest.raises(SelectorError, match=re.escape(words)) as caught:
        parse_requirement("zone", text)
    assert caught.value.position == position
    assert f"at character {position}, " in str(caught.value)


@pytest.mark.parametrize("label", ["", "-a", "a/b/c", "a b", "a" * 64])
def test_label_that_no_node_can_have_is_refused(label):
    with pytest.raises(SelectorError, match="no node can have it"):
        parse_requirement(label, "a")


def test_labels_of_ray_itself_are_labels():
    """Labels with Ray's prefix are valid."""
    assert parse_requirement("ray.io/node-id", "a").label == "ray.io/node-id"


# -- groups ------------------------------------------------------------------------------------------------------------


def test_group_by_names_and_labels_has_the_nodes_that_fit_both():
    group = labelled_nodes({"zone": "exists"}, ["node-b", "10.0.0.3"], group="gpu")
    selection = group.select(0, NODES)
    assert ids(selection) == ["b"]
    assert selection.excluded == {"node-a": "is not named by group 'gpu'", "node-c": "lacks label zone"}


def test_node_of_a_group_that_is_not_there_is_left_out():
    """A group's named node that is not alive is excluded with the reason; the others are selected."""
    selection = labelled_nodes({}, ["node-b", "node-x"], group="gpu").select(0, NODES)
    assert ids(selection) == ["b"]
    assert selection.excluded["node-x"] == "is named by group 'gpu', but is no live node"


def test_group_of_which_nobody_is_there_is_refused():
    """A group without a live node is refused."""
    selection = labelled_nodes({}, ["node-x"], group="gpu").select(0, NODES)
    assert selection.failure == "no live node belongs to group 'gpu'"


def test_group_with_an_ambiguous_name_is_refused():
    selection = labelled_nodes({}, ["machine", "1"], group="gpu").select(0, [node("1"), node("2")])
    assert selection.nodes == ()
    assert selection.failure.startswith("group 'gpu': 'machine' is ambiguous")
