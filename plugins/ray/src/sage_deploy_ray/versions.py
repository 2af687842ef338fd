"""
Which protocol a process speaks: said before anything else, so that two versions which differ say so and no more.

Of what travels only this stays the same in all versions: `start` and `wait_started` of the actor have `spoken()` as
their first argument, and answer `(None, spoken())` if they speak another number; `describe` answers `(spoken(), ...)`;
a directory is pickled as `revive(spoken(), environment, ...)`, and what a replica is made of as
`(spoken(), service, ...)`.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = ["NUMBER", "Spoken", "difference", "spoken"]

#: Goes up with each change in what processes say to each other: frames, letters, payloads, errors, listings, what a
#: replica is made of, and the methods of the actors.
NUMBER: Final = 1

#: The protocol's number, and the version of this distribution.
Spoken: TypeAlias = "tuple[int, str]"


def _version() -> str:
    try:
        return version("sage-deploy-ray")
    except PackageNotFoundError:  # a node may have it as files that nobody installed
        return "of unknown version"


#: Looked up once: that opens whatever is on `sys.path`, and leaves archives open.
_VERSION: Final = _version()


def spoken() -> Spoken:
    """What this process speaks."""
    return NUMBER, _VERSION


def difference(who: str, theirs: Spoken) -> str | None:
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
        f"{who} has sage-deploy-ray {name}, which speaks protocol {number}, and this process has sage-deploy-ray "
        f"{_VERSION}, which speaks protocol {NUMBER}. Install the same version here and there"
    )
