"""The work of `sage-deploy up --once`: build the index, ask real questions, return a report."""

from __future__ import annotations

import platform
import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stdlib_search.context import Context

QUESTIONS = (
    "compress a file with gzip",
    "parse command line arguments",
    "temporary directory",
    "run a coroutine with a timeout",
    "insert into a sorted list",
    "shuffle a list in place",
)
WIDTH = 100


class Demo:
    """Runs the example once through its services and returns a report."""

    def __init__(
        self,
        ctx: Context,
        search: str = "search",
        questions: Sequence[str] = QUESTIONS,
        answers: int = 3,
        crowd: int = 120,
    ) -> None:
        """
        Look up the search service.

        Args:
            ctx: Gives a handle to the search service.
            search: The name of the search service.
            questions: The questions to ask.
            answers: How many answers to show for each question.
            crowd: How many questions to ask at once at the end.
        """
        self._search = ctx.service(search)
        self._questions = tuple(questions)
        self._answers = answers
        self._crowd = crowd

    def process(self) -> str:
        """Build the index, with progress on stderr, ask the questions, and return the report."""
        started = time.perf_counter()
        documents = self._search.build(Progress("reading modules"))
        seconds = time.perf_counter() - started
        lines = [
            f"{documents:,} docstrings of Python {platform.python_version()}, read and indexed in {seconds:.1f} s",
            "",
        ]
        for question in self._questions:
            lines += [*self._ask(question), ""]
        return "\n".join([*lines, self._ask_crowd()])

    def _ask(self, question: str) -> list[str]:
        started = time.perf_counter()
        answers = self._search.query(question, self._answers)
        took = f"{(time.perf_counter() - started) * 1e3:.1f} ms"
        lines = [f"{question:<{WIDTH - len(took)}}{took}"]
        for rank, answer in enumerate(answers, 1):
            lines += [f"  {rank}. {answer.name}", f"     {_clip(answer.summary, WIDTH - 5)}"]
        return lines if answers else [*lines, "  nothing found"]

    def _ask_crowd(self) -> str:
        questions = [self._questions[i % len(self._questions)] for i in range(self._crowd)]
        started = time.perf_counter()
        for pending in [self._search.submit("query", question, self._answers) for question in questions]:
            pending.result()
        seconds = time.perf_counter() - started
        return (
            f"{self._crowd} questions at once: all answered in {seconds:.2f} s, {self._crowd / seconds:,.0f} a second"
        )


class Progress:
    """Shows progress: a bar on a terminal; in other streams a line every 10 %."""

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        """Write *label* and the progress to *stream*; default: stderr."""
        self._label = label
        self._stream = stream or sys.stderr
        self._bar = self._stream.isatty()
        self._shown = -1

    def __call__(self, done: int, total: int) -> None:
        """Report that *done* of *total* steps are done."""
        step = 100 * done // total // (1 if self._bar else 10)
        if step == self._shown:
            return
        self._shown = step
        if self._bar:
            bar = f"[{'#' * (30 * done // total):.<30}]"
            self._stream.write(f"\r{self._label} {bar} {done}/{total}" + ("\n" if done == total else ""))
        else:
            self._stream.write(f"{self._label}: {step * 10} % ({done}/{total})\n")
        self._stream.flush()


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
