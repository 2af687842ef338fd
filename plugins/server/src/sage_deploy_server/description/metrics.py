"""`GET /metrics`: metrics of all services for Prometheus, computed at each scrape."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from sage_deploy_server.description.exposition import Exposition, series_of
from sage_plugins.interfaces.families import Family, add_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.requests import Request

    from sage_plugins.interfaces.families import Families
    from sage_plugins.interfaces.operations import Operations

__all__ = ["MAX_SERIES", "Metrics"]

#: Maximum number of series in one answer. Services beyond that are summed as the service `other`.
MAX_SERIES: Final = 20_000

#: Name of the service that sums all services without series of their own.
_OTHER: Final = "other"
#: Series reserved for it: one method, with every outcome, reason, state and kind of event.
_RESERVED_FOR_OTHER: Final = 200
#: Labels with few values, whatever the services are. Only metrics with no other labels are summed.
_BOUNDED_LABELS: Final = {"check", "kind", "outcome", "reason", "state"}
#: Metrics of processes. Services share processes, so these are never summed.
_PROCESS_METRICS: Final = {"sage_process_cpu_cores", "sage_process_resident_memory_bytes"}


class Metrics:
    """Answers scrapes. Computes nothing between them."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._exposition = Exposition()

    async def answer(self, request: Request) -> Response:
        """Return the metrics in the format that the client prefers: Prometheus or OpenMetrics."""
        _, media_type = choose_encoder(request.headers.get("accept", ""))
        is_open = media_type.startswith("application/openmetrics")
        text = await asyncio.to_thread(lambda: self.text(is_open=is_open))  # it may ask other processes
        return Response(text, headers={"Cache-Control": "no-store", "Content-Type": media_type})

    def text(self, *, is_open: bool = False) -> str:
        """Return the current metrics as text in the format of Prometheus, or of OpenMetrics if *is_open*."""
        families = _exported(self._operations.name, self._operations.metrics())
        return self._exposition.text(families, is_open=is_open)


def _exported(environment: str, services: Mapping[str, Families]) -> Iterator[tuple[str | None, Family]]:
    """Yield the families of *services*: by service while there is room, and the rest summed as `other`."""
    yield None, Family("sage_environment_info", "gauge", "Always 1.", ("environment",), {(environment,): 1})
    shown: dict[str, list[Family]] = {}
    others: list[Families] = []
    room = MAX_SERIES - _RESERVED_FOR_OTHER
    for service, families in services.items():
        ours = [each for name, each in families.items() if name.startswith("sage_")]
        size = sum(map(series_of, ours))
        if size > room or service == _OTHER:
            others.append(_summable(ours))
        else:
            room -= size
            shown[service] = ours
    kinds: dict[str, str] = {}
    for service, ours in shown.items():
        for family in ours:
            kinds[family.name] = family.kind
            yield service, family
    if others:
        for family in add_up(others).values():
            kinds[family.name] = family.kind
            yield _OTHER, family
    yield from _class_metrics(services, shown, kinds, room)


def _class_metrics(
    services: Mapping[str, Families], shown: Mapping[str, list[Family]], kinds: dict[str, str], room: int
) -> Iterator[tuple[str | None, Family]]:
    """
    Yield the metrics that service classes define, while there is room.

    A name has one kind of metric in a text. If two services use a name for different kinds, the first one counts.
    """
    left_out = 0
    for service, families in services.items():
        for name, family in families.items():
            if name.startswith("sage_"):
                continue
            size = series_of(family)
            if size > room or service not in shown or kinds.setdefault(name, family.kind) != family.kind:
                left_out += size
            else:
                room -= size
                yield service, family
    help_ = "Series of classes' own metrics that are not shown: no room, or their name has another type elsewhere."
    yield None, Family("sage_series_left_out", "gauge", help_, (), {(): left_out})


def _summable(families: list[Family]) -> Families:
    """Return the families of one service that can be summed for `other`. Its methods count as one."""
    found: Families = {}
    for family in families:
        if family.name in _PROCESS_METRICS or not _BOUNDED_LABELS.issuperset({*family.labels} - {"method"}):
            continue
        if "method" in family.labels:
            at = family.labels.index("method")
            parts = [{(*key[:at], _OTHER, *key[at + 1 :]): value} for key, value in family.values.items()]
            each = [{family.name: family._replace(values=values)} for values in parts]
            found |= add_up(each)
        else:
            found[family.name] = family
    return found
