"""Registers the monitor `otel`, which creates an OpenTelemetry span for each call where its method runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins import hookimpl
from sage_plugins.values import Registration

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["sage_register_monitors"]


def _create(options: Any) -> Any:
    from sage_deploy_otel.tracing import Tracing  # imports opentelemetry

    return Tracing(options)


def _options() -> type:
    from sage_deploy_otel.options import OtelOptions

    return OtelOptions


def _explain(_config: Any, options: Any) -> Iterator[str]:
    if options is not None and options.setup is not None:
        yield f"{options.setup}() is called once in each process that has replicas, and in this one"


@hookimpl
def sage_register_monitors() -> list[Registration]:
    """Offer `otel`."""
    return [
        Registration(
            "otel",
            _create,
            "Traces calls by OpenTelemetry",
            capabilities=frozenset({"records_calls"}),
            options=_options,
            explain=_explain,
        )
    ]
