"""Texts for messages: numbers of things, the nearest spelling of a mistyped name, a foreign text on one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["counted", "did_you_mean", "one_line"]

#: Longer words are no typing mistakes, and the comparison's cost grows with the square of the length.
_LONGEST = 80


def counted(number: int, what: str) -> str:
    """A number of things in words: `"1 call"`, `"2 calls"`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def did_you_mean(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that looks most like *word*, or None if nothing comes near."""
    if not word or len(word) > _LONGEST:
        return None
    import difflib

    by_folded = {candidate.casefold(): candidate for candidate in candidates}
    near = difflib.get_close_matches(word.casefold().replace("-", "_"), by_folded, n=1, cutoff=0.6)
    return by_folded[near[0]] if near else None


def one_line(text: str, most: int = 200) -> str:
    """Text from a file or a path as part of one line of a message: no line breaks, no control characters."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: most + 1])
    return text if len(text) <= most else f"{text[:most]}..."
