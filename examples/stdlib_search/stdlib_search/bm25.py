"""Ranking by BM25: pure functions and one immutable value, no services."""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter, defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .documents import Document

#: How fast repeating a word stops helping, and how much long texts are held back. The usual values, from
#: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), section 3.
K1, B = 1.2, 0.75

#: HTTPServer -> HTTP Server; read_text -> read text; utf8 -> utf 8.
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_STOP_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "have", "if", "in", "into", "is",
    "it", "its", "of", "on", "or", "that", "the", "this", "to", "was", "with",
})  # fmt: skip


def tokens(text: str) -> list[str]:
    """The words of *text* as they are indexed: names split, lower case, singular, without the commonest words."""
    return [token for word in _WORD.findall(text) if (token := _token(word)) not in _STOP_WORDS]


@lru_cache(maxsize=1 << 16)
def _token(word: str) -> str:
    """*word* in lower case and, as far as an ending tells, in the singular: entries -> entry, files -> file."""
    singular = re.sub(r"(?<=..)ies$", "y", word.lower())
    return re.sub(r"(?<=..[^isu])s$", "", singular)  # not: class, basis, status, os


class Bm25:
    """
    Documents made searchable. Immutable: `with_documents` makes a new one, so any thread may search at any time.

    An inverted index: for each word, the documents that have it and how often.
    """

    def __init__(
        self, postings: Mapping[str, Mapping[str, int]] | None = None, lengths: Mapping[str, int] | None = None
    ) -> None:
        self._postings = postings or {}  # word -> document name -> how often
        self._lengths = lengths or {}  # document name -> number of words
        self._mean_length = sum(self._lengths.values()) / max(1, len(self._lengths))

    def __len__(self) -> int:
        """How many documents it has."""
        return len(self._lengths)

    def with_documents(self, documents: Iterable[Document]) -> Bm25:
        """A ranking that has *documents* too, each in place of one of the same name."""
        fresh = {document.name: _count(document) for document in documents}
        added: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for name, counts in fresh.items():
            for word, count in counts.items():
                added[word][name] = count
        postings = dict(self._postings if fresh.keys().isdisjoint(self._lengths) else self._postings_without(fresh))
        for word, entries in added.items():
            postings[word] = {**postings.get(word, {}), **entries}
        return Bm25(postings, {**self._lengths, **{name: counts.total() for name, counts in fresh.items()}})

    def search(self, query: str, limit: int = 10) -> list[tuple[str, float]]:
        """The names of the *limit* best documents for *query* with their scores, best first; ties by name."""
        scores: defaultdict[str, float] = defaultdict(float)
        for word in dict.fromkeys(tokens(query)):
            entries = self._postings.get(word, {})
            rarity = math.log(1 + (len(self) - len(entries) + 0.5) / (len(entries) + 0.5))
            for name, count in entries.items():
                length = self._lengths[name] / self._mean_length
                scores[name] += rarity * count * (K1 + 1) / (count + K1 * (1 - B + B * length))
        return heapq.nsmallest(limit, scores.items(), key=lambda item: (-item[1], item[0]))

    def _postings_without(self, names: Mapping[str, object]) -> dict[str, dict[str, int]]:
        kept = {
            word: {name: count for name, count in entries.items() if name not in names}
            for word, entries in self._postings.items()
        }
        return {word: entries for word, entries in kept.items() if entries}


def _count(document: Document) -> Counter[str]:
    """How often each word occurs; those of the summary, which the text begins with, count twice."""
    return Counter(tokens(f"{document.name} {document.summary} {document.text}"))
