"""Ends calls that wait for a slot at their timeout, because no caller waits for them in a simulation."""

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
    Ends the calls of one method that have waited too long, with one timer for all.

    All calls have the same timeout, so they expire in the order in which they came. Calls that are over are dropped
    from the front, so the list is hardly longer than the queue.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._calls: deque[Call] = deque()
        self._is_set = False

    def add(self, call: Call) -> None:
        """Add a waiting *call*."""
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
