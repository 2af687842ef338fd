"""
Explains in a few words why an actor is gone.

Ray gives the reason only inside a long error text. If a version of Ray words it differently, Ray's own text is used.
"""

from __future__ import annotations

import re
from typing import Final

from sage_plugins.errors import line_of

__all__ = ["why_gone"]

_EXIT_CODE: Final = re.compile(r"exit code (-?\d+)")
_PID: Final = re.compile(r"\bpid: (\d+)")

#: By the class name of Ray's error.
_BY_CLASS: Final = {
    "OutOfMemoryError": "Ray killed it because its node ran out of memory. Reserve what it needs with `memory_mb`",
    "ActorUnschedulableError": "its node is gone, or has no room for it any more",
    "ActorUnavailableError": "it cannot be reached",
}

#: By a phrase in the error's text. The first match counts.
_BY_TEXT: Final = {
    "its node has died": "its node died or was taken out of the cluster",
    "killed by `ray.kill`": "it was killed through Ray",
    "its owner has died": "the process that had started it ended",
}


def why_gone(error: BaseException) -> str:
    """
    Return the reason that completes "the replica is gone: ...".

    Args:
        error: The error of Ray for a task of the actor.
    """
    known = _BY_CLASS.get(type(error).__name__)
    if known is not None:
        return known
    text = str(error)
    for sign, words in _BY_TEXT.items():
        if sign in text:
            return words
    pid = _PID.search(text)
    process = "its process" if pid is None else f"its process {pid[1]}"
    code = _EXIT_CODE.search(text)
    if code is not None:
        return f"{process} ended with exit code {code[1]}"
    if "connection error code 2" in text:
        return f"{process} was killed or crashed; if memory ran out, the kernel log of its node says so"
    return line_of(error)
