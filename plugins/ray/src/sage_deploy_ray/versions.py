"""
Which protocol a process speaks: said before anything else, so that two versions which differ say so and no more.

Of what travels only this stays the same in all versions: `start` of the actor has `spoken()` as its first argument, and
answers `(None, spoken())` if it speaks another number; a directory is pickled as `revive(spoken(), environment, ...)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = ["NUMBER", "Spoken", "difference", "spoken"]

#: Goes up with each change in what processes say to each other: frames, letters, parcels, errors, listings, what a
#: replica is made of, and the methods of the actors.
NUMBER: Final = 1

#: The protocol's number, and the version of this distribution.
Spoken: TypeAlias = "tuple[int, str]"


def spoken() -> Spoken:
    """What this process speaks."""
    from importlib.metadata import version

    return NUMBER, version("sage-deploy-ray")


def difference(who: str, theirs: Spoken) -> str | None:
    """
    Why this process cannot talk to another one, and what to do; None if it can.

    Args:
        who: The other one, such as `"the replica's process on node-a1"`.
        theirs: What it speaks.
    """
    number, version = theirs
    if number == NUMBER:
        return None
    ours = spoken()[1]
    return (
        f"{who} has sage-deploy-ray {version}, which speaks protocol {number}, and this process has sage-deploy-ray "
        f"{ours}, which speaks protocol {NUMBER}. Install the same version here and there"
    )
