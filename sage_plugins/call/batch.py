"""
A batch: calls of one method that are answered together in one slot.

The router decides which calls join a batch and when it closes. A worker only gets closed batches.
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
    Several calls as one work item.

    A target that runs it in another process claims each of `calls`, calls `owner.batch_started`, and ends each call by
    itself.

    Attributes:
        owner: The router that made it.
        method: The method that the callers called.
        plan: How its calls are answered together.
        calls: Its calls, in the order in which they came.
        running: Number of its calls that were started; the others were given up before. -1 before the start. Guarded by
            the router's lock.
        abandoned: Number of started calls that were given up; guarded by the router's lock.
    """

    __slots__ = ("abandoned", "calls", "method", "owner", "plan", "running")

    expires = -inf  # so that `execute` finds batches without one more check for every call

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
        """Note that *number* of its calls run; return the change as `count_abandoned` does."""
        before = self._all_abandoned
        self.running = number
        return self._all_abandoned - before

    def count_abandoned(self, change: int) -> int:
        """Add *change* to the abandoned calls; return by how much the number of abandoned slots changes."""
        before = self._all_abandoned
        self.abandoned += change
        return self._all_abandoned - before

    @property
    def _all_abandoned(self) -> bool:
        """Whether only abandoned calls hold its slot."""
        return 0 < self.running == self.abandoned


def binder(method: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, ...]]:
    """
    Return a function that turns a call's arguments into one value per parameter of *method*, or raises TypeError.
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
