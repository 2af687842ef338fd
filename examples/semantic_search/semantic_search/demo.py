"""The work of `sage-deploy up --once`: index the texts, ask questions that share no word with their answers, report."""

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
    """What this class needs from its deployment."""

    def service(self, name: str) -> Any:
        """A handle to the service called *name*."""


class Demo:
    """One run of the example, with a report to read."""

    def __init__(self, ctx: Context, search: str = "search") -> None:
        """
        Look up the search.

        Args:
            ctx: The way to it.
            search: The name of its service.
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
