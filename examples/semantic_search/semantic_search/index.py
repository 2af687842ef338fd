"""Where vectors are found again: sageVDB, a vector database in C++."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sagevdb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike


class VectorIndex:
    """
    Finds the vectors that are nearest to one.

    The database cannot be pickled, and neither can what it answers: it is made in the constructor, so in the replica's
    process, and answers leave it as tuples.

    It holds the data: one replica. Safe from several threads.
    """

    def __init__(self, dimension: int = 384) -> None:
        """
        Start empty.

        Args:
            dimension: The length of each vector.
        """
        config = sagevdb.DatabaseConfig(dimension)
        config.index_type = sagevdb.IndexType.FLAT  # looks at all of them: exact, and quick for some thousands
        config.metric = sagevdb.DistanceMetric.INNER_PRODUCT
        self._database = sagevdb.SageVDB(config)

    def add(self, name: str, vector: Sequence[float]) -> None:
        """Add *vector* under *name*."""
        self._database.add(vector, {"name": name})

    def search(self, vector: ArrayLike, limit: int = 5) -> list[tuple[str, float]]:
        """The names of the *limit* nearest vectors with their products with *vector*, nearest first."""
        found = sagevdb.search_numpy(self._database, vector, sagevdb.SearchParams(limit))
        return [(result.metadata["name"], result.score) for result in found]

    def count(self) -> int:
        """How many vectors there are."""
        return self._database.size()
