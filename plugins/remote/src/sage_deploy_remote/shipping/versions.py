"""
Which protocol a process speaks: said before anything else, so that two versions which differ say so and no more.

What a replica is made of is packed as `(own_version(), service, ...)` in all versions. A substrate has more that stays
the same: its first message to a process says `own_version()`, and so does the first answer.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = ["NUMBER", "ProtocolVersion", "difference", "own_version"]

#: Goes up with each change in what processes say to each other: frames, responses, payloads, errors, listings, what a
#: replica is made of, the modules of all these, and what the processes of a substrate can be asked.
NUMBER: Final = 10

_DISTRIBUTION: Final = "sage-deploy-remote"

#: The protocol's number, and the version of this distribution.
ProtocolVersion: TypeAlias = "tuple[int, str]"


@cache  # that opens whatever is on `sys.path`, and leaves archives open
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # a replica never asks, unless it has another protocol

    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:  # a node may have it as files that nobody installed
        return "of unknown version"


def own_version() -> ProtocolVersion:
    """What this process speaks."""
    return NUMBER, _version()


def difference(who: str, theirs: ProtocolVersion) -> str | None:
    """
    Why this process cannot talk to another one, and what to do; None if it can.

    Args:
        who: The other one, such as `"the replica's process on node-a1"`.
        theirs: What it speaks.
    """
    number, name = theirs
    if number == NUMBER:
        return None
    return (
        f"{who} has {_DISTRIBUTION} {name}, which speaks protocol {number}, and this process has {_DISTRIBUTION} "
        f"{_version()}, which speaks protocol {NUMBER}. Install the same version here and there"
    )
