"""Numbers of one service as Prometheus has them: metric families, each with its values by labels."""

from __future__ import annotations

from operator import add as plus
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["MOST_LABEL_SETS", "Families", "Family", "add_up", "growing", "is_summable"]

#: Label values of one family that are told apart when it is added up. Those beyond are added to `other`.
MOST_LABEL_SETS: Final = 1_000


class Family(NamedTuple):
    """
    One metric of a service.

    Attributes:
        name: Such as `sage_requests_total`; that of a counter ends in `_total`.
        kind: `counter`, `gauge` or `histogram`.
        help: What it says, in one sentence.
        labels: Names of its labels. Who shows it adds `service`.
        values: By the tuple of the labels' values: a number; of a histogram its sum, then how many are in each bucket.
        edges: Upper edges of a histogram's buckets; one more bucket, without an edge, is for what is larger.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    values: Mapping[Any, Any]
    edges: tuple[float, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """The values for a status: each with its labels."""
        return [{**dict(zip(self.labels, key, strict=True)), "value": value} for key, value in self.values.items()]


#: Families by name.
Families: TypeAlias = dict[str, Family]


def add_up(parts: Iterable[Mapping[str, Family]]) -> Families:
    """
    The sum of several; the parts stay as they are.

    A family that has changed its kind, labels or edges begins anew: the later one counts.
    """
    total: Families = {}
    for part in parts:
        for name, family in part.items():
            sum_ = total.get(name)
            if sum_ is None or (sum_.kind, sum_.labels, sum_.edges) != (family.kind, family.labels, family.edges):
                total[name] = family._replace(values=dict(family.values))
                continue
            values: dict[tuple[str, ...], Any] = cast("dict[tuple[str, ...], Any]", sum_.values)
            for labels, value in family.values.items():
                key = labels if labels in values or len(values) < MOST_LABEL_SETS else ("other",) * len(labels)
                before = values.get(key)
                if before is None:
                    values[key] = value
                else:
                    values[key] = tuple(map(plus, before, value)) if family.edges else before + value
    return total


def is_summable(family: Family) -> bool:
    """Whether its values are those of the service, rather than of single replicas."""
    return "replica" not in family.labels


def growing(families: Mapping[str, Family]) -> Families:
    """Those that never fall, and that stay when the replicas leave which they are about."""
    return {name: each for name, each in families.items() if each.kind != "gauge" and is_summable(each)}
