"""Selects the nodes that may hold a replica, by names, labels and groups in the configuration. Ignores resources."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from sage_deploy_remote.placement.label_selectors import parse_requirement
from sage_deploy_remote.placement.nodes import unique_names
from sage_plugins.texts import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sage_deploy_remote.placement.label_selectors import LabelRequirement
    from sage_deploy_remote.placement.nodes import Node

__all__ = ["AnyNode", "LabelledNodes", "NamedNodes", "NodeSelector", "Selection", "labelled_nodes"]

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_EMPTY: Final = "the cluster has no live node"

#: The most nodes that a message lists.
_LISTED: Final = 20


class Selection(NamedTuple):
    """
    The nodes that may hold one replica.

    Attributes:
        nodes: The allowed nodes.
        excluded: Reasons against the others, by unique name; for a node that does not exist, by the configuration's
            name.
        failure: Why no node is allowed, in one sentence; empty if one is.
        reason: Why just this node, if the configuration leaves no choice; else empty.
    """

    nodes: tuple[Node, ...]
    excluded: Mapping[str, str] = _NOTHING
    failure: str = ""
    reason: str = ""


class NodeSelector(Protocol):
    """A configuration's rule for the nodes of a service. Values are immutable, so any thread may use them."""

    def select(self, index: int, nodes: Sequence[Node]) -> Selection:
        """
        Return the nodes that may hold the replica at position *index*.

        Args:
            index: Its position among the service's replicas, from 0.
            nodes: The live nodes.
        """


class AnyNode(NamedTuple):
    """Any live node: target `remote_any`."""

    def select(self, index: int, nodes: Sequence[Node]) -> Selection:  # noqa: ARG002 - the same for all replicas
        """Return all nodes."""
        return Selection(tuple(nodes), failure="" if nodes else _EMPTY)


class NamedNodes(NamedTuple):
    """
    One named node for each replica, in turn: target `remote_specific`.

    Attributes:
        names: Names, IDs, host names or IP addresses of nodes. Replica i goes to the one at position i; after the last
            one, it starts again with the first.
    """

    names: tuple[str, ...]

    def select(self, index: int, nodes: Sequence[Node]) -> Selection:
        """
        Return the node that is named for the replica.

        If it does not exist, return none: the replica goes nowhere else.
        """
        position = index % len(self.names)
        name = self.names[position]
        found, wrong = _find(name, nodes)
        excluded = {
            unique: f"is not {name!r}, which target_nodes has for this replica"
            for id, unique in unique_names(nodes).items()
            if found is None or id != found.id
        }
        if found is None:
            return Selection((), excluded, wrong)
        return Selection((found,), excluded, reason=f"target_nodes.{position} names it")


class LabelledNodes(NamedTuple):
    """
    A group of nodes: target `cluster_group`.

    Attributes:
        requirements: Conditions for the labels; a node must meet all of them.
        names: Names, IDs, host names or IP addresses of the only nodes of the group; None for no such limit. Names of
            missing nodes are ignored while another named node exists.
        group: Name of the group; empty if it has none.
    """

    requirements: tuple[LabelRequirement, ...]
    names: tuple[str, ...] | None = None
    group: str = ""

    def select(self, index: int, nodes: Sequence[Node]) -> Selection:  # noqa: ARG002 - the same for all replicas
        """Return the nodes of the group."""
        if not nodes:
            return Selection((), failure=_EMPTY)
        unique = unique_names(nodes)
        excluded: dict[str, str] = {}
        ids: set[str] = set()
        for name in self.names or ():
            found, wrong = _find(name, nodes)
            if found is not None:
                ids.add(found.id)
            elif _matching(name, nodes)[1]:
                unclear = dict.fromkeys(unique.values(), f"was not looked at: {name!r} is ambiguous")
                return Selection((), unclear, f"{self}: {wrong}")
            else:
                excluded[name] = f"is named by {self}, but is no live node"
        chosen: list[Node] = []
        for node in nodes:
            reasons = [reason for each in self.requirements if (reason := each.unmet_by(node.labels))]
            if self.names is not None and node.id not in ids:
                reasons.insert(0, f"is not named by {self}")
            if reasons:
                excluded[unique[node.id]] = ", ".join(reasons)
            else:
                chosen.append(node)
        return Selection(tuple(chosen), excluded, "" if chosen else f"no live node belongs to {self}")

    def __str__(self) -> str:
        """Return its name for messages."""
        return f"group {self.group!r}" if self.group else "node_selector"


def labelled_nodes(labels: Mapping[str, str], names: Sequence[str] | None = None, *, group: str = "") -> LabelledNodes:
    """
    Return the group of nodes that match *labels* and are among *names*.

    Args:
        labels: Selector by label, such as `{"zone": "in(a, b)"}`.
        names: Names, IDs, host names or IP addresses, or None for no such limit.
        group: Name of the group.

    Raises:
        SelectorError: A text is not a selector; the checks of the targets find that earlier.
    """
    requirements = tuple(parse_requirement(label, text) for label, text in labels.items())
    return LabelledNodes(requirements, None if names is None else tuple(names), group)


def _matching(name: str, nodes: Sequence[Node]) -> tuple[str, list[Node]]:
    """Return the kind of *name* and the nodes that have it. The first kind with a matching node decides."""
    for kind in ("name", "id", "hostname", "address"):
        found = [node for node in nodes if getattr(node, kind) == name]
        if found:
            return kind, found
    return "", []


def _find(name: str, nodes: Sequence[Node]) -> tuple[Node | None, str]:
    """Return the node of that name, or why there is none."""
    kind, found = _matching(name, nodes)
    if len(found) == 1:
        return found[0], ""
    if found:
        ids = _listed(sorted(node.id for node in found))
        words = {"hostname": "host name", "address": "IP address"}.get(kind, kind)
        return None, f"{name!r} is ambiguous, {len(found)} live nodes have that {words}: name one by its ID: {ids}"
    if not nodes:
        return None, f"no live node is called {name!r}: {_EMPTY}"
    known = sorted({each for node in nodes for each in (node.name, node.hostname, node.address)})
    near = did_you_mean(name, known)
    hint = f"did you mean {near!r}? " if near else ""
    live = _listed(sorted(unique_names(nodes).values()))
    return None, f"no live node is called {name!r}: {hint}live nodes: {live}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
