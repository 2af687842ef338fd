"""Ranks documents with BM25: pure functions and one immutable class, no services."""

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

#: How soon a repeated word stops adding to the score, and how much long texts are penalized. The usual values, from
#: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), section 3.
K1, B = 1.2, 0.75

#: HTTPServer -> HTTP Server; read_text -> read text; utf8 -> utf 8.
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_STOP_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "have", "if", "in", "into", "is",
    "it", "its", "of", "on", "or", "that", "the", "this", "to", "was", "with",
})  # fmt: skip


def tokens(text: str) -> list[str]:
    """Return the indexed words of *text*: names split, in lower case, singular, without the most common words."""
    return [token for word in _WORD.findall(text) if (token := _token(word)) not in _STOP_WORDS]


@lru_cache(maxsize=1 << 16)
def _token(word: str) -> str:
    """
    Return *word* in lower case and, if its ending shows a plural, in the singular: entries -> entry, files -> file.
    """
    singular = re.sub(r"(?<=..)ies$", "y", word.lower())
    return re.sub(r"(?<=..[^isu])s$", "", singular)  # not: class, basis, status, os


class Bm25:
    """
    A searchable set of documents. It is immutable: `with_documents` returns a new one. Safe from several threads.

    An inverted index: it maps each word to the documents that contain it, with the number of occurrences.
    """

    def __init__(
        self, postings: Mapping[str, Mapping[str, int]] | None = None, lengths: Mapping[str, int] | None = None
    ) -> None:
        self._postings = postings or {}  # word -> document name -> number of occurrences
        self._lengths = lengths or {}  # document name -> number of words
        self._mean_length = sum(self._lengths.values()) / max(1, len(self._lengths))

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self._lengths)

    def with_documents(self, documents: Iterable[Document]) -> Bm25:
        """Return a ranking that also has *documents*, replacing those of the same name."""
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
        """Return the names of the *limit* best documents for *query* with their scores, best first; ties by name."""
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
    """Count each word. Words of the summary count twice, because the text begins with the summary."""
    return Counter(tokens(f"{document.name} {document.summary} {document.text}"))
