"""
Decides on which nodes the replicas of a service go. Equal clusters give equal decisions in every run.

A replica is placed only where it fits. If it fits nowhere, it is refused with a reason for every node. So it does not
wait in the cluster for room that may never come.
"""

from __future__ import annotations

import math
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from sage_deploy_remote.placement.nodes import Resources, unique_names
from sage_plugins.values import Placed, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sage_deploy_remote.placement.nodes import Node
    from sage_deploy_remote.placement.selection import NodeSelector, Selection
    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.values import ReplicaSpec

__all__ = ["CPUS", "Running", "Spot", "in_words", "lacking", "needs", "place"]

#: CPU cores that a replica reserves by default, as in Ray Serve.
CPUS: Final = 1.0

_MIB: Final = 1024 * 1024

#: Ray counts CPUs and GPUs in multiples of 1/10,000. We count these as integers, because sums of fractions are inexact.
_PARTS: Final = 10_000


class Running(NamedTuple):
    """
    A replica of the service that already runs on a node.

    Attributes:
        node_id: ID of the node.
        index: Position among the service's replicas.
    """

    node_id: str
    index: int  # type: ignore[assignment] # hides tuple.index, which nobody needs here


class Spot(NamedTuple):
    """
    The place of a replica.

    Attributes:
        placed: What the plan shows.
        node_id: ID of the node, for the code that starts the replica there.
    """

    placed: Placed
    node_id: str


def needs(config: ServiceDeploymentConfig, cores: float = CPUS) -> Resources:
    """
    Return what a replica reserves on its node.

    Args:
        config: The service's configuration; `cpu_cores: 0` reserves no core.
        cores: CPU cores without `cpu_cores`; by default one, as in Ray Serve.
    """
    cores = cores if config.cpu_cores is None else config.cpu_cores
    return Resources(cores, (config.memory_mb or 0) * _MIB, config.gpu_count or 0)


def in_words(need: Resources) -> str:
    """Return *need* as text for messages, such as `"1 CPU and 2 GPUs"`."""
    return _words(_parts(need))


def lacking(node: Node, need: Resources) -> str:
    """Return what *node* has too little of now for *need*, such as `"has 0 of 4 CPUs free"`; "" if nothing."""
    return ", ".join(_too_little_free(_parts(node.total), _parts(node.free), _parts(need)))


def place(
    specs: Sequence[ReplicaSpec],
    nodes: Sequence[Node],
    selector: NodeSelector,
    running: Iterable[Running] = (),
    cores: float = CPUS,
) -> list[Spot | Refused]:
    """
    Decide on a node for each replica in turn. What one replica takes is not free for the next.

    Args:
        specs: The replicas, of one service.
        nodes: The live nodes.
        selector: Says which nodes may hold a replica.
        running: The service's running replicas. They count for `spread` and `max_replicas_per_node`, except a replica
            at the position of one that is placed, because that one replaces it. What they reserve is not free in
            *nodes*.
        cores: As for `needs`.

    Returns:
        For each replica its place, or why there is none: E801 the configuration allows no node, E802 it needs more than
        any allowed node has, E803 it needs a GPU and no allowed node has one, E806 there is no room now.
    """
    reservations = _Reservations(nodes, running)
    return [_place(spec, _parts(needs(spec.config, cores)), nodes, selector, reservations) for spec in specs]


class _Shortage(NamedTuple):
    """Why a node cannot hold a replica; *lasts* is true if the node is too small."""

    reason: str
    lasts: bool


class _Reservations:
    """Records what is taken while replicas are placed."""

    def __init__(self, nodes: Sequence[Node], running: Iterable[Running]) -> None:
        self.names = unique_names(nodes)
        self.free = {node.id: _parts(node.free) for node in nodes}
        self._replicas: Counter[str] = Counter()
        self._at: Counter[tuple[str, int]] = Counter()
        for each in running:
            self._replicas[each.node_id] += 1
            self._at[each.node_id, each.index] += 1

    def replicas(self, node: Node, index: int) -> int:
        """Count the replicas on the node, without the one that the replica at *index* replaces."""
        return self._replicas[node.id] - self._at[node.id, index]

    def all_replicas(self, node: Node) -> int:
        """Count the replicas on the node, including one that will be replaced."""
        return self._replicas[node.id]

    def take(self, node: Node, need: _Parts) -> None:
        free = self.free[node.id]
        self.free[node.id] = _Parts(*(has - wants for has, wants in zip(free, need, strict=True)))
        self._replicas[node.id] += 1


class _Parts(NamedTuple):
    """Resources as integers: ten-thousandths of CPUs and GPUs, and bytes."""

    cpu: int
    memory: int
    gpu: int


def _parts(resources: Resources) -> _Parts:
    return _Parts(round(resources.cpu * _PARTS), int(resources.memory), round(resources.gpu * _PARTS))


def _place(
    spec: ReplicaSpec, need: _Parts, nodes: Sequence[Node], selector: NodeSelector, reservations: _Reservations
) -> Spot | Refused:
    selection = selector.select(spec.index, nodes)
    if not selection.nodes:
        return Refused(selection.failure, selection.excluded, "E801")
    shortages = {
        node.id: shortage
        for node in selection.nodes
        if (shortage := _shortage(node, need, spec.config.max_replicas_per_node, spec.index, reservations)) is not None
    }
    able = [node for node in selection.nodes if node.id not in shortages]
    refused = {**selection.excluded, **{reservations.names[id]: shortage.reason for id, shortage in shortages.items()}}
    if not able:
        return _refused(selection, need, shortages, refused)
    orders = _orders(spec, reservations)
    first, *others = sorted(able, key=lambda node: tuple(order.key(node) for order in orders))
    refused |= {reservations.names[node.id]: _why_later(node, first, orders) for node in others}
    reason = selection.reason or _why_first(first, others, orders)
    reservations.take(first, need)
    return Spot(Placed(reservations.names[first.id], reason, MappingProxyType(refused)), first.id)


def _refused(
    selection: Selection, need: _Parts, shortages: Mapping[str, _Shortage], refused: Mapping[str, str]
) -> Refused:
    wants = _words(need)
    if need.gpu and not any(node.total.gpu for node in selection.nodes):
        return Refused(f"it needs {wants}, and no node that may hold it has a GPU", refused, "E803")
    if all(shortage.lasts for shortage in shortages.values()):
        return Refused(f"it needs {wants}, more than any node that may hold it has", refused, "E802")
    return Refused(f"it needs {wants}, and no node that may hold it has room for it now", refused, "E806")


# -- what a node lacks -------------------------------------------------------------------------------------------------


def _shortage(node: Node, need: _Parts, most: int | None, index: int, reservations: _Reservations) -> _Shortage | None:
    total = _parts(node.total)
    lasting = [_too_small(kind, has) for kind, has, wants in zip(_KINDS, total, need, strict=True) if wants > has]
    if lasting:
        return _Shortage(", ".join(lasting), lasts=True)
    reasons: list[str] = []
    count = reservations.replicas(node, index)
    if most is not None and count >= most:
        reasons.append(f"already has {count} of at most {_count(most, 'replica')}")
    reasons += _too_little_free(total, reservations.free[node.id], need)
    # A share must fit on one GPU, which the sum of free GPUs does not say.
    if 0 < need.gpu < _PARTS and not reasons:
        each = _PARTS // need.gpu
        devices = math.ceil(node.total.gpu)
        if reservations.all_replicas(node) >= devices * each:
            reasons.append(f"has {_count(devices, 'GPU')} with room for {_count(each, 'such replica')} each")
    return _Shortage(", ".join(reasons), lasts=False) if reasons else None


def _too_little_free(total: _Parts, free: _Parts, need: _Parts) -> list[str]:
    return [
        f"has {kind.number(max(0, left))} of {kind.words(has)} free"
        for kind, has, left, wants in zip(_KINDS, total, free, need, strict=True)
        if wants and wants > left
    ]


class _Kind(NamedTuple):
    """How to write an amount of a resource."""

    unit: str
    unit_many: str
    parts: int

    def number(self, parts: int) -> str:
        # Rounded down, so that a node that lacks one byte does not seem to have enough.
        return f"{parts * _PARTS // self.parts / _PARTS:.4f}".rstrip("0").rstrip(".")

    def words(self, parts: int) -> str:
        return f"{self.number(parts)} {self.unit if parts == self.parts else self.unit_many}"


_CPU: Final = _Kind("CPU", "CPUs", _PARTS)
_KINDS: Final = (_CPU, _Kind("MiB memory", "MiB memory", _MIB), _Kind("GPU", "GPUs", _PARTS))


def _too_small(kind: _Kind, has: int) -> str:
    return f"has only {kind.words(has)}" if has else f"has no {kind.unit.removeprefix('MiB ')}"


def _words(need: _Parts) -> str:
    """Return a replica's needs as text, such as `"1 CPU and 2 GPUs"`."""
    found = [kind.words(parts) for kind, parts in zip(_KINDS, need, strict=True) if parts]
    return " and ".join(found) if found else "no resources"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# -- which node comes first --------------------------------------------------------------------------------------------


class _Order(NamedTuple):
    """A criterion by which nodes are ordered, lowest first."""

    key: Callable[[Node], int | str]
    why_first: Callable[[Node], str]
    why_later: Callable[[Node], str]


#: Word for nodes that lose to those with the most, or the fewest.
_LESS: Final = {"most": "fewer", "fewest": "more"}


def _orders(spec: ReplicaSpec, reservations: _Reservations) -> tuple[_Order, ...]:
    replicas, cpus, sign = ("most", "fewest", -1) if spec.config.spread == "pack" else ("fewest", "most", 1)

    def count(node: Node) -> int:
        return reservations.replicas(node, spec.index)

    def free(node: Node) -> str:
        return f"{_CPU.number(reservations.free[node.id].cpu)} of {_CPU.number(_parts(node.total).cpu)}"

    def alike(node: Node) -> str:
        return f"has {_count(count(node), 'replica')} of the service and {free(node)} CPUs free like others"

    return (
        _Order(
            lambda node: sign * count(node),
            lambda node: f"has the {replicas} replicas of the service, {count(node)}",
            lambda node: f"has room, but {_LESS[replicas]} replicas of the service, {count(node)}",
        ),
        _Order(
            lambda node: -sign * reservations.free[node.id].cpu,
            lambda node: f"has the {cpus} CPUs free of those with {_count(count(node), 'replica')}, {free(node)}",
            lambda node: f"has room, but {_LESS[cpus]} CPUs free, {free(node)}",
        ),
        _Order(
            lambda node: node.name,
            lambda node: f"{alike(node)}, and comes first by name",
            lambda _: "has room, but comes later by name",
        ),
        _Order(
            lambda node: node.id,
            lambda node: f"{alike(node)}, and comes first by ID",
            lambda _: "has room, but comes later by ID",
        ),
    )


def _why_first(first: Node, others: Sequence[Node], orders: Sequence[_Order]) -> str:
    """Return why *first* comes before the next node."""
    if not others:
        return "is the only node that can hold it"
    order = next(order for order in orders if order.key(first) != order.key(others[0]))
    return order.why_first(first)


def _why_later(node: Node, first: Node, orders: Sequence[_Order]) -> str:
    """Return why *node* comes after *first*."""
    order = next(order for order in orders if order.key(node) != order.key(first))
    return order.why_later(node)
