"""What goes wrong in a simulation, and when."""

from __future__ import annotations

from enum import StrEnum
from math import inf, isfinite

import attrs

__all__ = ["Fault", "FaultKind"]


class FaultKind(StrEnum):
    """What goes wrong."""

    CRASH = "crash"
    """A replica dies, with the calls that it runs; it is replaced as the configuration says."""
    SLOW = "slow"
    """Methods that start meanwhile take several times as long."""
    HANG = "hang"
    """Nothing ends meanwhile; calls are taken and do not go on."""
    NODE = "node"
    """A node is lost, with all its replicas, and takes no others meanwhile."""
    DROP = "drop"
    """Some answers get lost: the caller waits until its deadline, and so long the call keeps its slot."""


@attrs.frozen(kw_only=True)
class Fault:
    """
    Something that goes wrong.

    Attributes:
        kind: What, one of `FaultKind` or its text.
        at: Seconds since the beginning.
        seconds: How long; inf for ever. A crash has no duration.
        replica: Position of the replica that has it; None for the node below, else for a random one, or of `drop` for
            all.
        node: Number of the node whose replicas have it; None for the replica above.
        factor: Of `slow`: how many times as long methods take.
        share: Of `drop`: the share of answers that get lost, up to 1.
    """

    kind: FaultKind = attrs.field(converter=FaultKind)
    at: float
    seconds: float = inf
    replica: int | None = None
    node: int | None = None
    factor: float = 10.0
    share: float = 1.0

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot happen."""
        if not (isfinite(self.at) and self.at >= 0):
            raise ValueError(f"a fault happens at a number of seconds, 0 or more, got {self.at!r}")
        if not self.seconds > 0:
            raise ValueError(f"a fault lasts for a number of seconds above 0, got {self.seconds!r}")
        if self.kind is FaultKind.CRASH and self.seconds < inf:
            raise ValueError("a crash has no duration: the replica is replaced")
        if self.replica is not None and self.node is not None:
            raise ValueError("a fault is of a replica or of a node, not of both")
        if self.kind is FaultKind.NODE and self.node is None:
            raise ValueError("the loss of a node needs its number: node=0")
        if self.kind is FaultKind.SLOW and not (isfinite(self.factor) and self.factor > 0):
            raise ValueError(f"factor must be above 0, got {self.factor!r}")
        if self.kind is FaultKind.DROP and not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share!r}")

    def __str__(self) -> str:
        """As the command line spells it."""
        what = {
            FaultKind.SLOW: f"slow x{self.factor:g}",
            FaultKind.DROP: f"drop {100 * self.share:g}%",
            FaultKind.NODE: f"node {self.node}",
        }.get(self.kind, str(self.kind))
        where = "" if self.replica is None else f" replica {self.replica}"
        if self.node is not None and self.kind is not FaultKind.NODE:
            where = f" node {self.node}"
        lasts = "" if self.seconds == inf else f" for {self.seconds:g}s"
        return f"{what}{where} at {self.at:g}s{lasts}"
