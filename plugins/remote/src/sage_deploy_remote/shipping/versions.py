"""
The protocol version of a process. Processes exchange it first; if versions differ, they report that and nothing else.

In all versions, a replica's spec is packed as `(own_version(), service, ...)`. A substrate also keeps this: its first
message to a process begins with `own_version()`, and so does the first answer.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = ["NUMBER", "ProtocolVersion", "difference", "own_version"]

#: Increase it with each change of what processes exchange: frames, responses, payloads, errors, listings, specs, the
#: modules whose names pickles contain, and the requests that a substrate's processes accept.
NUMBER: Final = 11

_DISTRIBUTION: Final = "sage-deploy-remote"

#: The protocol's number, and this distribution's version.
ProtocolVersion: TypeAlias = "tuple[int, str]"


@cache  # looking it up opens all of `sys.path`, and leaves archives open
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # a replica needs it only if protocols differ

    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:  # the files may be there without an installation
        return "of unknown version"


def own_version() -> ProtocolVersion:
    """Return the protocol version of this process."""
    return NUMBER, _version()


def difference(who: str, theirs: ProtocolVersion) -> str | None:
    """
    Return why this process cannot talk to another one, and what to do; None if it can.

    Args:
        who: The other process, such as `"the replica's process on node-a1"`.
        theirs: Its protocol version.
    """
    number, name = theirs
    if number == NUMBER:
        return None
    return (
        f"{who} has {_DISTRIBUTION} {name}, which speaks protocol {number}, and this process has {_DISTRIBUTION} "
        f"{_version()}, which speaks protocol {NUMBER}. Install the same version here and there"
    )
