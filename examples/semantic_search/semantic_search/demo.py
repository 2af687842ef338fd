"""
The work of `sage-deploy up --once`: index the texts, ask questions, return a report.

The questions share no word with their answers.
"""

from __future__ import annotations

from typing import Any, Protocol

QUESTIONS = (
    "make files smaller",
    "what does the user want, on the terminal?",
    "toss a coin",
    "send a letter over the internet",
    "how long does my program take?",
    "run several things at the same time",
)
WIDTH = 100


class Context(Protocol):
    """What this class needs from the program that deploys it."""

    def service(self, name: str) -> Any:
        """Return a handle to the service called *name*."""


class Demo:
    """Runs the example once and returns a report."""

    def __init__(self, ctx: Context, search: str = "search") -> None:
        """
        Look up the search service.

        Args:
            ctx: Gives a handle to the search service.
            search: The name of the search service.
        """
        self._search = ctx.service(search)

    def process(self) -> str:
        """Build the index, ask the questions, and return the report."""
        built = self._search.build()
        rate = len(built.texts) / built.seconds
        lines = [f"{len(built.texts)} texts embedded in {built.seconds:.1f} s, {rate:.0f} a second"]
        for question in QUESTIONS:
            lines += ["", question]
            for answer in self._search.query(question):
                text = f"  {answer.score:.2f}  {answer.name:<22}  {answer.text}"
                lines.append(text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}...")
        return "\n".join(lines)
