"""Runs questions that may block forever, each in a thread of its own and with a timeout."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, TypeVar

from sage_plugins.threads import future_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BlockingQuestions", "TooManyUnansweredError"]

_T = TypeVar("_T")

#: Maximum number of unanswered questions. A runtime without a head answers none, or some after minutes.
_MAX_UNANSWERED: Final = 8


class TooManyUnansweredError(TimeoutError):
    """Too many earlier questions are unanswered, so this one was not asked."""


class BlockingQuestions:
    """
    Runs questions that have no timeout of their own. Thread-safe.

    A question that times out keeps its thread until it returns; its result is then dropped. There are at most 8 such
    threads. After that, every new question fails at once.
    """

    def __init__(self, name: str) -> None:
        """
        Create the object without asking anything.

        Args:
            name: Name of its threads.
        """
        self._name = name
        self._free = threading.Semaphore(_MAX_UNANSWERED)

    def ask(self, question: Callable[[], _T], limit: float) -> _T:
        """
        Run *question* in a thread, and return its result.

        Args:
            question: What to run.
            limit: Timeout in seconds.

        Raises:
            TooManyUnansweredError: Eight earlier questions are still unanswered.
            TimeoutError: There was no answer in time.
            BaseException: What *question* raised.
        """
        if not self._free.acquire(blocking=False):
            raise TooManyUnansweredError(f"{_MAX_UNANSWERED} earlier questions are still without an answer")

        def run() -> _T:
            try:
                return question()
            finally:
                self._free.release()

        answer = future_of(run, self._name)
        try:
            return answer.result(limit)
        except TimeoutError:
            if answer.done():  # *question* itself raised it
                raise
            raise TimeoutError(f"no answer within {limit:g} s") from None
