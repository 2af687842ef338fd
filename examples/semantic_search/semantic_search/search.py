"""What users talk to: has the texts embedded and indexed, and answers questions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Context(Protocol):
    """What this class needs from its deployment."""

    def service(self, name: str) -> Any:
        """A handle to the service called *name*."""


class Embedded(NamedTuple):
    """
    All texts with what they mean.

    Attributes:
        texts: Each text by its name.
        vectors: The vector of each, in the same order.
        seconds: What it took to embed them all, waiting included.
    """

    texts: dict[str, str]
    vectors: list[NDArray[np.float32]]
    seconds: float


class Answer(NamedTuple):
    """
    One answer to a question.

    Attributes:
        name: The name of a text.
        text: All of it.
        score: How near it is in meaning, 1 at most.
    """

    name: str
    text: str
    score: float


class Search:
    """The front of the example. Where the others are, and how many, it neither knows nor asks."""

    def __init__(self, ctx: Context, texts: str = "texts", embedder: str = "embedder", index: str = "index") -> None:
        """
        Look up the other services.

        Args:
            ctx: The way to them.
            texts: The name of the service that has the texts.
            embedder: The name of the one that makes vectors.
            index: The name of the one that finds them.
        """
        self._source = ctx.service(texts)
        self._embedder = ctx.service(embedder)
        self._index = ctx.service(index)
        self._texts: dict[str, str] = {}  # replaced by build

    def build(self) -> Embedded:
        """Embed all texts and index them; once is enough."""
        embedded = self.embed()
        for name, vector in zip(embedded.texts, embedded.vectors, strict=True):
            self._index.add(name, vector)
        self._texts = embedded.texts
        return embedded

    def embed(self) -> Embedded:
        """Embed all texts: every call is made before the first is answered, so all who can work have work."""
        texts = dict(self._source.read())
        started = time.perf_counter()
        calls = [self._embedder.submit("embed", text) for text in texts.values()]
        vectors = [call.result() for call in calls]
        return Embedded(texts, vectors, time.perf_counter() - started)

    def query(self, question: str, limit: int = 3) -> list[Answer]:
        """The *limit* texts that are nearest in meaning to *question*, nearest first."""
        found = self._index.search(self._embedder.embed(question), limit)
        return [Answer(name, self._texts[name], score) for name, score in found]
