"""The service that clients call: it embeds and indexes the texts, and answers questions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Context(Protocol):
    """What this class needs from the program that deploys it."""

    def service(self, name: str) -> Any:
        """Return a handle to the service called *name*."""


class Embedded(NamedTuple):
    """
    All texts with their vectors.

    Attributes:
        texts: Each text by its name.
        vectors: One vector for each text, in the same order.
        seconds: How long it took to embed them all, waiting included.
    """

    texts: dict[str, str]
    vectors: list[NDArray[np.float32]]
    seconds: float


class Answer(NamedTuple):
    """
    One answer to a question.

    Attributes:
        name: The name of a text.
        text: The whole text.
        score: How close the text's meaning is to the question's; at most 1.
    """

    name: str
    text: str
    score: float


class Search:
    """The service that clients call. It needs no knowledge of where the other services run, or in how many replicas."""

    def __init__(self, ctx: Context, texts: str = "texts", embedder: str = "embedder", index: str = "index") -> None:
        """
        Look up the other services.

        Args:
            ctx: Gives handles to the other services.
            texts: The name of the service that reads the texts.
            embedder: The name of the service that makes vectors.
            index: The name of the service that searches vectors.
        """
        self._source = ctx.service(texts)
        self._embedder = ctx.service(embedder)
        self._index = ctx.service(index)
        self._texts: dict[str, str] = {}  # set by build

    def build(self) -> Embedded:
        """Embed and index all texts. Call it once."""
        embedded = self.embed()
        for name, vector in zip(embedded.texts, embedded.vectors, strict=True):
            self._index.add(name, vector)
        self._texts = embedded.texts
        return embedded

    def embed(self) -> Embedded:
        """Embed all texts. It submits every call before it waits for an answer, so all replicas have work."""
        texts = dict(self._source.read())
        started = time.perf_counter()
        calls = [self._embedder.submit("embed", text) for text in texts.values()]
        vectors = [call.result() for call in calls]
        return Embedded(texts, vectors, time.perf_counter() - started)

    def query(self, question: str, limit: int = 3) -> list[Answer]:
        """Return the *limit* texts closest in meaning to *question*, closest first."""
        found = self._index.search(self._embedder.embed(question), limit)
        return [Answer(name, self._texts[name], score) for name, score in found]
