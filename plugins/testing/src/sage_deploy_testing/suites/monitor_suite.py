"""The base of the monitor cases: creates the monitor under test, and reads its summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from sage_deploy_testing.suites.recipe import make
from sage_deploy_testing.suites.service_conformance import ServiceConformance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sage_plugins.interfaces import Monitor

__all__ = ["MONITOR_CAPABILITIES", "MonitorSuite"]

#: The capabilities that monitors can declare, and what each promises.
MONITOR_CAPABILITIES: Final[Mapping[str, str]] = {
    "records_calls": "it has a recorder for each replica and the calling side",
    "counts_calls": "its summary has `outcomes`: each accepted call that ended, once, by outcome",
    "merges_counts": "it has `merge`: counts stay when replicas leave",
    "exports_metrics": "it has `families`: numbers for `/metrics`",
    "watches_service": "it has `attach`: it looks at the service and its replicas by itself",
    "keeps_events": "its summary has `latest`: the latest events, oldest first, each with `kind` and `reason`",
    "checks_health": "it asks replicas `check_health()` and `check_ready()`, and marks them by their answers",
}


class MonitorSuite(ServiceConformance):
    """Base of the cases about one monitor. The services run on target `local`."""

    kind: ClassVar[str] = "monitor"
    known: ClassVar[Mapping[str, str]] = {**ServiceConformance.known, **MONITOR_CAPABILITIES}
    target = "local"
    strategy = "single"

    def declared(self) -> Mapping[str, str]:
        """Return the capabilities of the monitor, and of the target and strategy of its services."""
        registration = self.registry().find(self.kind, self.plugin_id).registration
        return {**super().declared(), **dict.fromkeys(registration.capabilities, self.plugin_id)}

    def plugin_for(self, capability: str) -> str:
        """Return the ID of the monitor, the target or the strategy."""
        return self.plugin_id if capability in MONITOR_CAPABILITIES else super().plugin_for(capability)

    def monitor(self) -> Monitor:
        """Return a new monitor, as a service gets it."""
        made: Monitor = make(self)
        return made

    def outcomes(self, summary: Mapping[str, Any]) -> Mapping[str, int]:
        """Return a summary's number of calls by outcome, without outcomes that have none."""
        return {name: number for name, number in summary["outcomes"].items() if number}

    def events(self, summary: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return kind and reason of each event in a summary, the oldest first."""
        return [(event["kind"], event["reason"]) for event in summary["latest"]]

    def lasting(self, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Return the part of a summary that remains after replicas leave.

        By default everything except `cpu_usage` and `memory_usage`. Override it if other parts are of the moment too.
        """
        return {name: value for name, value in summary.items() if name not in {"cpu_usage", "memory_usage"}}
