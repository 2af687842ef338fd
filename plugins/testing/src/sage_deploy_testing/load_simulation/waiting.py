"""Calls that wait for a slot, with nobody who waits for them and would end them at their time."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sage_deploy_testing.load_simulation.timeline import Timeline
    from sage_plugins.call.call import Call

__all__ = ["Waiting"]


class Waiting:
    """
    Ends the calls of one method that have waited for too long, with one timer for all of them.

    They come in the order in which their times end, because each has the same time. Those that are over are forgotten
    from the front, so this holds few calls more than wait.
    """

    def __init__(self, timeline: Timeline) -> None:
        """Know of none; *timeline* has the timer."""
        self._timeline = timeline
        self._calls: deque[Call] = deque()
        self._is_set = False

    def add(self, call: Call) -> None:
        """*call* waits."""
        until = call.expires
        if until == inf:
            return
        calls = self._calls
        while calls and (calls[0].over() or not calls[0].unstarted()):
            calls.popleft()
        calls.append(call)
        if not self._is_set:
            self._is_set = True
            self._timeline.at(until, self._is_due, None)

    def _is_due(self, _: None) -> None:
        calls, now = self._calls, self._timeline.now
        while calls:
            first = calls[0]
            if not first.over() and first.unstarted():
                if first.expires > now:
                    self._timeline.at(first.expires, self._is_due, None)
                    return
                first.expire()
            calls.popleft()
        self._is_set = False
