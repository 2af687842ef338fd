"""Helpers for messages: numbers of things, the nearest spelling of a mistyped name, a text on one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["counted", "did_you_mean", "one_line"]

#: Longer words get no suggestion: they are no typing mistakes, and the cost grows with the square of the length.
_LONGEST = 80


def counted(number: int, what: str) -> str:
    """Return a number with its noun: `"1 call"`, `"2 calls"`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def did_you_mean(word: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that is most similar to *word*; None if none is similar."""
    if not word or len(word) > _LONGEST:
        return None
    import difflib

    by_folded = {candidate.casefold(): candidate for candidate in candidates}
    near = difflib.get_close_matches(word.casefold().replace("-", "_"), by_folded, n=1, cutoff=0.6)
    return by_folded[near[0]] if near else None


def one_line(text: str, most: int = 200) -> str:
    """Return text for one line of a message: without line breaks and control characters, at most *most* characters."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: most + 1])
    return text if len(text) <= most else f"{text[:most]}..."
