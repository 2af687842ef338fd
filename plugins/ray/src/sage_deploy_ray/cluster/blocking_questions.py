"""Asking somebody who may never answer: each question has a thread of its own and a limit."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, TypeVar

from sage_plugins.threads import future_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BlockingQuestions", "TooManyUnansweredError"]

_T = TypeVar("_T")

#: Questions that may be without an answer at once: a runtime whose head is gone answers none, and some after minutes.
_MOST_UNANSWERED: Final = 8


class TooManyUnansweredError(TimeoutError):
    """So many earlier questions have no answer that this one was not asked."""


class BlockingQuestions:
    """
    Asks questions that block without a limit of their own. From any thread.

    A question that is not answered in time keeps its thread until it is, and then the answer goes nowhere. There are at
    most 8 such threads: from then on questions fail at once.
    """

    def __init__(self, name: str) -> None:
        """
        Ask nothing yet.

        Args:
            name: What its threads are called.
        """
        self._name = name
        self._free = threading.Semaphore(_MOST_UNANSWERED)

    def ask(self, question: Callable[[], _T], limit: float) -> _T:
        """
        The answer to *question*.

        Args:
            question: What to run.
            limit: Longest wait, in seconds.

        Raises:
            TooManyUnansweredError: Eight earlier questions are still without an answer.
            TimeoutError: There was no answer in time.
            BaseException: What *question* raised.
        """
        if not self._free.acquire(blocking=False):
            raise TooManyUnansweredError(f"{_MOST_UNANSWERED} earlier questions are still without an answer")

        def run() -> _T:
            try:
                return question()
            finally:
                self._free.release()

        answer = future_of(run, self._name)
        try:
            return answer.result(limit)
        except TimeoutError:
            if answer.done():  # the question's own
                raise
            raise TimeoutError(f"no answer within {limit:g} s") from None
