"""Locks that know which of two interleaved operations runs."""

from __future__ import annotations

import threading
from typing import ClassVar

import sage_plugins.call.lazy_future


class MustWaitError(BaseException):
    """The second operation would have to wait for a lock that the first holds."""


class Turnstile:
    """A re-entrant lock that knows which operation runs: the second runs in the middle of the first."""

    second_runs: ClassVar[bool] = False

    def __init__(self):
        self._held_by_first = 0

    def acquire(self, blocking=True, timeout=-1):  # noqa: FBT002 - as threading.RLock
        if not Turnstile.second_runs:
            self._held_by_first += 1
        elif self._held_by_first:
            raise MustWaitError
        return True

    def release(self):
        if not Turnstile.second_runs:
            self._held_by_first -= 1

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *_):
        self.release()

    def _is_owned(self):
        return True


class Shared(sage_plugins.call.lazy_future._Shared):
    __slots__ = ()

    def __init__(self):
        super().__init__()
        self.condition = threading.Condition(Turnstile())
