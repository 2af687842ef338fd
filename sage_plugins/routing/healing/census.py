"""What everybody holds at one instant, and which threads are in the middle of something."""

from __future__ import annotations

import gc
import sys
from functools import partial
from operator import call as call_it
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.call.call import Call
from sage_plugins.call.lazy_future import LazyFuture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import FrameType

    from sage_plugins.routing.lane import Lane

__all__ = ["Census"]

#: Modules whose code has a slot, a place in the queue or a call in its hands while it runs.
_ON_THE_WAY: Final = frozenset(
    f"sage_plugins.routing.{name}"
    for name in ("ahead", "draining", "lane", "losses", "method_limits", "open_batch", "queue", "router")
)

#: The same of the host, where a call that has arrived counts as the host's.
_ARRIVED: Final = frozenset(f"sage_plugins.host.{name}" for name in ("loop_worker", "thread_worker"))

_GIVE_UP: Final = Call.give_up.__code__
_HOLD: Final = Call.hold.__code__
_WAIT: Final = LazyFuture._wait_for.__code__  # noqa: SLF001 - one room


class Census:
    """
    All that is held at one instant.

    Python lets no other thread run inside one call of a built-in function, so all numbers and the stacks of all threads
    are of the same moment.

    Attributes:
        quiet: Whether no thread was in the middle of something: then all that has an owner is in the lists below.
        parked: Calls that wait for room.
        waiting: Calls that wait for a slot, those included.
        room: Tokens of room.
        held: For each lane whose replica tells it, the slots that are used there.
        free: For each lane its tokens.
    """

    def __init__(
        self, lanes: Sequence[Lane], room: list[None], parked: Iterable[Call], backlogs: Iterable[Iterable[Call]]
    ) -> None:
        """Count; under the lock of the lanes."""
        holds = [lane.holds for lane in lanes]
        counts: list[Callable[[], int]] = [count for each in holds if each is not None for count in each.counts]
        lists: list[Callable[[], Any]] = [partial(list, parked), *(partial(list, backlog) for backlog in backlogs)]
        granted: list[Callable[[], Any]] = [partial(list, lane.granted) for lane in lanes]
        # Nor must the collector run, which runs finalizers.
        collects, _, stacks, self.room, *found = map(
            call_it,
            [
                gc.isenabled,
                gc.disable,
                sys._current_frames,  # noqa: SLF001 - documented
                room.__len__,
                *counts,
                *(lane.free.__len__ for lane in lanes),
                *granted,
                *lists,
            ],
        )
        if collects:
            gc.enable()
        self.quiet = not any(_is_on_the_way(innermost) for innermost in stacks.values())
        numbers = iter(found)
        sums = [None if each is None else sum(next(numbers) for _ in each.counts) for each in holds]
        self.free: dict[Lane, int] = {lane: next(numbers) for lane in lanes}
        self.held: dict[Lane, int] = {}
        for lane, each, number in zip(lanes, holds, sums, strict=True):
            taken = sum("granted" in call.__dict__ for call in next(numbers))
            if each is not None and number is not None:
                self.held[lane] = number + each.busy(stacks) + taken
        self.parked: list[Call] = next(numbers)
        self.waiting: list[Call] = [call for backlog in numbers for call in backlog]


def _is_on_the_way(innermost: FrameType) -> bool:
    """Whether a thread has something in its hands that no list and no replica knows of."""
    frame: FrameType | None = innermost
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if module in _ARRIVED:
            return False
        if module in _ON_THE_WAY or frame.f_code is _GIVE_UP:
            return True
        if frame.f_code is _HOLD:  # it has a slot, unless it sleeps
            return innermost.f_code is not _WAIT
        frame = frame.f_back
    return False
