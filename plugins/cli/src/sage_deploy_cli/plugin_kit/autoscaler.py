"""The autoscaler `example_plugin`: runs enough replicas to keep a share of the slots free."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from sage_plugins import hookimpl
from sage_plugins.values import Registration

if TYPE_CHECKING:
    from sage_plugins.interfaces.autoscalers import Load


@attrs.frozen
class ExamplePluginOptions:
    """
    Options of `example_plugin`.

    Attributes:
        busy: Share of the slots that should be taken, above 0 and at most 1.
    """

    busy: float = attrs.field(default=0.7, validator=[attrs.validators.gt(0), attrs.validators.le(1)])


class ExamplePlugin:
    """Computes the number of replicas from the load alone. The core applies bounds, delays and the tolerance."""

    def __init__(self, options: ExamplePluginOptions) -> None:
        self._busy = options.busy

    def decide(self, load: Load) -> float:
        """Return the number of replicas that *load* needs. The same load must give the same number."""
        if not load.ready or not load.slots:  # no replica is ready, so the slots of one replica are unknown
            return load.replicas
        slots_of_one = load.slots / load.ready
        return max(1, math.ceil((load.ongoing + load.queued) / (slots_of_one * self._busy)))


@hookimpl
def sage_register_autoscalers() -> list[Registration]:
    """Offer the autoscaler."""
    return [
        Registration("example_plugin", ExamplePlugin, "Keeps a share of the slots free", options=ExamplePluginOptions)
    ]
