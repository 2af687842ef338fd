"""The nodes of a cluster for placement: plain values from any runtime."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Node", "Resources", "unique_names"]

#: Number of characters of an ID that usually tell two nodes apart.
_SHORT = 8


class Resources(NamedTuple):
    """
    An amount of a node's resources.

    Attributes:
        cpu: CPU cores; multiples of 0.0001, as in Ray.
        memory: Memory in bytes.
        gpu: GPUs; multiples of 0.0001, as in Ray.
    """

    cpu: float
    memory: int
    gpu: float


class Node(NamedTuple):
    """
    A live node of a cluster.

    Attributes:
        id: Its ID, which no other node ever has.
        name: Its name, which other live nodes may share; Ray's default is the IP address.
        hostname: Its machine's name; several nodes may run on one.
        address: IP address of its machine.
        labels: Its labels.
        total: All its resources.
        free: The resources that nothing reserves now.
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
    Return a unique name for each node, by ID.

    It is the node's own name, with the start of its ID if other nodes share the name: `"gpu-01 (3f2a91c0)"`.
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
