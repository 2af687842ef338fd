"""Faults of a simulation."""

from __future__ import annotations

from enum import StrEnum
from math import inf, isfinite

import attrs

__all__ = ["Fault", "FaultKind"]


class FaultKind(StrEnum):
    """The kinds of faults."""

    CRASH = "crash"
    """A replica dies, with the calls that it runs. It is replaced as configured."""
    SLOW = "slow"
    """Methods that start during the fault take several times as long."""
    HANG = "hang"
    """No call ends during the fault. Replicas accept calls without progress."""
    NODE = "node"
    """A node is lost with all its replicas, and takes no others during the fault."""
    DROP = "drop"
    """Some answers are lost. The caller waits until its deadline, and the call keeps its slot until then."""


@attrs.frozen(kw_only=True)
class Fault:
    """
    Something that goes wrong.

    Attributes:
        kind: One of `FaultKind`, or its text.
        at: Seconds since the start.
        seconds: Duration in seconds; inf forever. A crash has no duration.
        replica: Position of the replica. None for the replicas of `node`. If both are None: a random replica, or for
            `drop` all.
        node: Number of the node whose replicas have the fault. None for `replica`.
        factor: For `slow`: how many times as long methods take.
        share: For `drop`: the share of lost answers, above 0 and at most 1.
    """

    kind: FaultKind = attrs.field(converter=FaultKind)
    at: float
    seconds: float = inf
    replica: int | None = None
    node: int | None = None
    factor: float = 10.0
    share: float = 1.0

    def __attrs_post_init__(self) -> None:
        """Refuse impossible values."""
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
        """Return the fault as the command line spells it."""
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
