"""What the strategies with threads share."""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["join_all"]


def join_all(threads: Iterable[threading.Thread], grace: float) -> int:
    """
    Wait at most *grace* seconds in all for *threads* to end; how many have not. The calling thread does not count.
    """
    until = monotonic() + grace
    left = 0
    for thread in threads:
        if thread is threading.current_thread():
            continue
        thread.join(max(0.0, until - monotonic()))
        left += thread.is_alive()
    return left
