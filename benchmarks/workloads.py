"""The shapes of load that more than one benchmark puts on its contenders."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from rounds import per_call

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["from_threads", "gather"]


def gather(submit: Callable[..., Any], *first: Any, number: int = 20_000) -> float:
    """Seconds for each of *number* calls that are all submitted before the first result is read."""

    def run() -> None:
        futures = [submit(*first, value) for value in range(number)]
        for future in futures:
            future.result()

    return per_call(run, 1) / number


def from_threads(call: Callable[[], Any], *, threads: int = 8, number: int = 1_500) -> float:
    """Seconds for each call when *threads* threads make *number* calls each, one after the other."""
    barrier = threading.Barrier(threads + 1)

    def body() -> None:
        barrier.wait()
        for _ in range(number):
            call()
        barrier.wait()

    for _ in range(threads):
        threading.Thread(target=body, daemon=True).start()

    def run() -> None:
        barrier.wait()
        barrier.wait()

    return per_call(run, 1) / (threads * number)
