"""`GET /metrics`: what is measured of all services, as Prometheus reads it, made when it is scraped."""

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

#: Series that one answer has, at most. Services beyond that are added up as the service `other`.
MAX_SERIES: Final = 20_000

#: The service that stands for all that have no series of their own.
_OTHER: Final = "other"
#: Series that are kept free for it: it has one method, and every outcome, reason, state and kind of event.
_OF_OTHER: Final = 200
#: Labels that have few values, whatever the services are; only metrics with these are added up.
_BOUNDED: Final = {"check", "kind", "outcome", "reason", "state"}
#: Metrics of whole processes. Services share processes, so these are never added up.
_OF_PROCESSES: Final = {"sage_process_cpu_cores", "sage_process_resident_memory_bytes"}


class Metrics:
    """Answers scrapes; nothing is computed between them."""

    def __init__(self, operations: Operations) -> None:
        """Tell of the services of *operations*."""
        self._operations = operations
        self._exposition = Exposition()

    async def answer(self, request: Request) -> Response:
        """The metrics, in the format that the client prefers among those of Prometheus and OpenMetrics."""
        _, media_type = choose_encoder(request.headers.get("accept", ""))
        is_open = media_type.startswith("application/openmetrics")
        text = await asyncio.to_thread(lambda: self.text(is_open=is_open))  # other processes may be asked
        return Response(text, headers={"Cache-Control": "no-store", "Content-Type": media_type})

    def text(self, *, is_open: bool = False) -> str:
        """The metrics of this moment; with *is_open* as OpenMetrics, else as Prometheus has them."""
        families = _shown(self._operations.name, self._operations.metrics())
        return self._exposition.text(families, is_open=is_open)


def _shown(environment: str, services: Mapping[str, Families]) -> Iterator[tuple[str | None, Family]]:
    """What is shown of *services*: as many as there is room for, each by its name, and the others together."""
    yield None, Family("sage_environment_info", "gauge", "Always 1.", ("environment",), {(environment,): 1})
    shown: dict[str, list[Family]] = {}
    others: list[Families] = []
    room = MAX_SERIES - _OF_OTHER
    for service, families in services.items():
        ours = [each for name, each in families.items() if name.startswith("sage_")]
        size = sum(map(series_of, ours))
        if size > room or service == _OTHER:
            others.append(_bounded(ours))
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
    yield from _own(services, shown, kinds, room)


def _own(
    services: Mapping[str, Families], shown: Mapping[str, list[Family]], kinds: dict[str, str], room: int
) -> Iterator[tuple[str | None, Family]]:
    """
    The metrics that classes have made themselves, as far as there is room.

    A name stands for one kind of metric in a text. If two services use it for two, the first one counts.
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


def _bounded(families: list[Family]) -> Families:
    """Those that can be added up for `other`, of one service: its methods count as one."""
    found: Families = {}
    for family in families:
        if family.name in _OF_PROCESSES or not _BOUNDED.issuperset({*family.labels} - {"method"}):
            continue
        if "method" in family.labels:
            at = family.labels.index("method")
            parts = [{(*key[:at], _OTHER, *key[at + 1 :]): value} for key, value in family.values.items()]
            each = [{family.name: family._replace(values=values)} for values in parts]
            found |= add_up(each)
        else:
            found[family.name] = family
    return found
