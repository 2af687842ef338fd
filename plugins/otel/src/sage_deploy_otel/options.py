"""Options of the monitor `otel`."""

from __future__ import annotations

import attrs

__all__ = ["OtelOptions"]


def _check_setup(_self: OtelOptions, _attribute: attrs.Attribute[str | None], value: str | None) -> None:
    if value is not None:
        module, colon, function = value.partition(":")
        if not (colon and function.isidentifier() and all(part.isidentifier() for part in module.split("."))):
            msg = f"setup: give MODULE:FUNCTION, such as 'tracing_setup:configure', got {value!r:.80}"
            raise ValueError(msg)


@attrs.frozen
class OtelOptions:
    """
    Options of `otel`.

    Attributes:
        setup: `MODULE:FUNCTION` that sets up the OpenTelemetry SDK. It is called once in the deploying process and once
            in each process with traced replicas. Null: the program or the service's module sets it up.
    """

    setup: str | None = attrs.field(default=None, validator=_check_setup)
