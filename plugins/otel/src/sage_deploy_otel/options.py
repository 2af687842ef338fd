"""The options of the monitor."""

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
        setup: `MODULE:FUNCTION` that sets up the SDK of OpenTelemetry. It is called once in each process that has
            traced replicas, and in the one that deploys them. None if the program, or the service's module, does that.
    """

    setup: str | None = attrs.field(default=None, validator=_check_setup)
