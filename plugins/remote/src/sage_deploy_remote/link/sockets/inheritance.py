"""
Closes the link's descriptors in forked copies of this process, such as the workers of a data loader.

A copy would hold every connection open. Then the other side would learn of this process's end only when the copy ends.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, TypeVar
from weakref import WeakSet

if TYPE_CHECKING:
    from typing import Any

__all__ = ["closed_in_copies"]


class _Closable(Protocol):
    def close(self) -> Any:
        """Free the descriptor."""


_End = TypeVar("_End", bound=_Closable)

_OWN: Final[WeakSet[_Closable]] = WeakSet()


def closed_in_copies(end: _End) -> _End:
    """Return *end*, a socket or connection of this process; a forked copy of the process closes its copy of it."""
    _OWN.add(end)
    return end


def _after_fork() -> None:
    for end in tuple(_OWN):
        with suppress(OSError):  # a thread that does not exist here had just closed it
            end.close()
    _OWN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
