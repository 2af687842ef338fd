"""
Calls of one method that are answered together.

A batch takes one slot. Whoever runs it gets it closed: who may join it, and until when, is the router's business.
"""

from __future__ import annotations

import inspect
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.values import BatchPlan, MethodPlan

__all__ = ["Batch", "binder"]


class Batch:
    """
    One piece of work made of several calls.

    A target that runs it elsewhere claims each of `calls`, tells `owner.batch_started`, and ends each call by itself.

    Attributes:
        owner: The router that made it.
        method: The method that the callers called.
        plan: How its calls are answered together.
        calls: Those in the batch, in the order in which they came.
        running: How many of them were started, the rest having been given up; -1 before. Guarded by the router's lock.
        abandoned: How many of those were given up since; likewise.
    """

    __slots__ = ("abandoned", "calls", "method", "owner", "plan", "running")

    expires = -inf  # so that `execute` takes it aside without a question of its own

    def __init__(self, calls: list[Call]) -> None:
        """Make a batch of *calls*, at least one."""
        self.owner = calls[0].owner
        self.method: MethodPlan = calls[0].method
        self.plan: BatchPlan = self.method.batch  # type: ignore[assignment] # only calls of such methods get here
        self.calls = calls
        self.running = -1
        self.abandoned = 0
        for call in calls:
            call.batch = self

    @property
    def lane(self) -> Any:
        """Where it runs."""
        return self.calls[0].lane

    # -- the router's side, under its lock ---------------------------------------------------------------------------

    def started(self, number: int) -> int:
        """So many calls of it run, the others had been given up; gives the change as `count_abandoned` does."""
        before = self._all_abandoned
        self.running = number
        return self._all_abandoned - before

    def count_abandoned(self, change: int) -> int:
        """So many of its calls more or less are abandoned; how many slots more or less that makes."""
        before = self._all_abandoned
        self.abandoned += change
        return self._all_abandoned - before

    @property
    def _all_abandoned(self) -> bool:
        """Whether its slot is held by nothing but abandoned calls."""
        return 0 < self.running == self.abandoned


def binder(method: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, ...]]:
    """
    What gives a value for each parameter of *method*, from a call's arguments; raises TypeError if they do not fit.
    """
    signature = inspect.signature(method)
    number = len(signature.parameters)

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        if not kwargs and len(args) == number:
            return args
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return tuple(bound.arguments.values())

    return bind
