"""The nodes of a cluster as placement sees them: plain values, whatever runtime they come from."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Node", "Resources", "unique_names"]

#: Characters of an ID that tell two nodes apart at a glance.
_SHORT = 8


class Resources(NamedTuple):
    """
    An amount of what a node has.

    Attributes:
        cpu: CPU cores; fractions of 0.0001 count, as in Ray.
        memory: Bytes.
        gpu: GPUs; fractions of 0.0001 count, as in Ray.
    """

    cpu: float
    memory: int
    gpu: float


class Node(NamedTuple):
    """
    A live node of a cluster.

    Attributes:
        id: Its ID, which no other node has or will ever have.
        name: Its name, which another live node may have too; Ray's default is the IP address.
        hostname: Name of its machine; several nodes may run on one.
        address: IP address of its machine.
        labels: What it is labelled with.
        total: What it has.
        free: What of that nothing reserves at the moment.
    """

    id: str
    name: str
    hostname: str
    address: str
    labels: Mapping[str, str]
    total: Resources
    free: Resources


def unique_names(nodes: Sequence[Node]) -> dict[str, str]:
    """
    A name for each node that no other of *nodes* gets, by ID.

    It is the node's own name, with the beginning of its ID if it shares that name: `"gpu-01 (3f2a91c0)"`.
    """
    names = Counter(node.name for node in nodes)
    shorts = Counter((node.name, node.id[:_SHORT]) for node in nodes)
    found: dict[str, str] = {}
    for node in nodes:
        if names[node.name] == 1:
            found[node.id] = node.name
        elif shorts[node.name, node.id[:_SHORT]] == 1:
            found[node.id] = f"{node.name} ({node.id[:_SHORT]})"
        else:
            found[node.id] = f"{node.name} ({node.id})"
    return found
