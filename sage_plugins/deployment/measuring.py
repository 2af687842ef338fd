"""Collects the metrics of one service as metric families; cheaper than its status, which has more."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.deployment.lifecycle import shown_state
from sage_plugins.deployment.replicas.waiting import stats_of
from sage_plugins.interfaces.control import OWN_METRICS
from sage_plugins.interfaces.families import Family, add_up, growing
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sage_plugins.deployment.replicas.member import Member
    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.interfaces.families import Families

__all__ = ["Measuring", "not_composed"]


_GAUGES: Final = {
    "sage_service_ready": "1 if the service is ready, even only in part; for `other`: the number of ready services.",
    "sage_requests_in_flight": "Calls that hold a slot.",
    "sage_slots": "Maximum calls that the replicas run at once.",
    "sage_queue_depth": "Calls that wait for a slot.",
    "sage_queue_capacity": "Maximum calls that may wait for a slot.",
    "sage_abandoned_calls": "Calls that hold a slot although their caller has given up.",
    "sage_desired_replicas": "Wanted replicas, started or not; stopping ones do not count.",
}
_RETRIES: Final = "Calls retried because their replica died, or because they raised an exception that `retry.on` names."
_RESTARTS: Final = "Replicas started to replace one that ended, was unhealthy or was recycled."


def not_composed() -> Families:
    """Return the families of a service that cannot be composed."""
    name = "sage_service_ready"
    return {name: Family(name, "gauge", _GAUGES[name], (), {(): 0})}


def measured_by(
    members: Sequence[Member], counts_of_departed: Mapping[str, Any], stats: Sequence[Mapping[str, Any]]
) -> Families:
    """
    Return the sums of what replicas measure themselves, such as `ctx.metrics`.

    Args:
        members: The present replicas.
        counts_of_departed: Counts of the replicas that have left.
        stats: Statistics of each of *members*, in the same order.
    """
    parts: list[Families] = [counts_of_departed.get(OWN_METRICS, {})]
    for member, answer in zip(members, stats, strict=True):
        own: Families = answer["recorders"].get(OWN_METRICS, {})
        if own:
            gone = member.ended or member.state is ReplicaState.STOPPED
            own = growing(own) if gone else own
            parts.append({name: _of_replica(each, member.id) for name, each in own.items()})
    return add_up(parts)


def _of_replica(family: Family, replica: str) -> Family:
    """Return a gauge with a label for the replica. Counters and histograms are summed for the service instead."""
    if family.kind != "gauge":
        return family
    values = {(*key, replica): value for key, value in family.values.items()}
    return family._replace(labels=(*family.labels, "replica"), values=values)


class Measuring:
    """
    Measures one service on demand. From any thread.

    Attributes:
        final: The first result of `counters` after the service had stopped; None before.
    """

    def __init__(self, replicas: ReplicaSet) -> None:
        self._replicas = replicas
        self.final: Families | None = None
        self._lock = threading.Lock()  # guards `final`
        self._is_remote = "in_process" not in replicas.composition.target.registration.capabilities

    def counters(self) -> Families:
        """
        Return the counters and histograms, which never fall, of a service that is being replaced or has stopped.

        After the stop the result never changes, even if an abandoned method ends later, because the caller may already
        have added it to a sum.
        """
        over = self._replicas.state == ReplicaState.STOPPED
        found = growing(self.families())
        with self._lock:
            if self.final is None and over:
                self.final = found
            return found if self.final is None else self.final

    @property
    def remote_members(self) -> Sequence[Member]:
        """The service's replicas, if they are in other processes; else none."""
        return self._replicas.members if self._is_remote else ()

    def families(self) -> Families:
        """Return all families. Asks replicas in other processes, as a status does."""
        members, counts_of_departed = self._members_and_counts()
        stats = stats_of(members, in_process=not self._is_remote)
        snapshots = [counts_of_departed, *(each["recorders"] for each in stats)]
        found = (*self._core_families(stats), *self._replicas.monitors.families(snapshots))
        return {each.name: each for each in found} | measured_by(members, counts_of_departed, stats)

    def counts(self) -> Families:
        """
        Return the families of monitors that count calls. Asks replicas in other processes.

        A family is the same object as before if its monitor has counted nothing since.
        """
        members, counts_of_departed = self._members_and_counts()
        if self._is_remote:
            found = [answer["recorders"] for answer in stats_of(members, in_process=False)]
        else:
            found = [each.local_counts() for each in members]
        families = self._replicas.monitors.families([counts_of_departed, *found], counting=True)
        return {each.name: each for each in families}

    def _members_and_counts(self) -> tuple[Sequence[Member], Mapping[str, Any]]:
        """Return the present replicas and the counts of those that have left, at one moment."""
        with self._replicas.condition:  # so that each replica is in exactly one of the two
            return self._replicas.members, self._replicas.counts_of_departed

    def _core_families(self, stats: Sequence[Mapping[str, Any]]) -> Iterator[Family]:
        replicas = self._replicas
        inflight = slots = abandoned = desired = ready = threads = busy = 0
        states = {str(ReplicaState.READY): 0}  # present even at 0, so that an alert can compare it
        with replicas.condition:
            for member in replicas.members:
                state, lane = str(member.state), member.lane
                states[state] = states.get(state, 0) + 1
                if not member.is_leaving:
                    desired += 1
                    ready += member.state is ReplicaState.READY
                inflight += lane.inflight
                slots += lane.slots
                abandoned += lane.abandoned
        for answer in stats:
            if answer["runner"] is not None:
                threads += answer["runner"].threads
                busy += min(answer["runner"].threads, answer.get("running", 0))
        for name, value in {
            "sage_service_ready": shown_state(replicas.state, ready, desired) in {ReplicaState.READY, "degraded"},
            "sage_requests_in_flight": inflight,
            "sage_slots": slots,
            "sage_queue_depth": replicas.router.waiting,
            "sage_queue_capacity": replicas.composition.config.queue_size,
            "sage_abandoned_calls": abandoned,
            "sage_desired_replicas": desired if replicas.scaler is None else replicas.scaler.wanted,
        }.items():
            yield Family(name, "gauge", _GAUGES[name], (), {(): value})
        by_state = {(state,): number for state, number in states.items()}
        yield Family("sage_replicas", "gauge", "Replicas by state.", ("state",), by_state)
        by_use = {("busy",): busy, ("idle",): threads - busy}
        yield Family("sage_threads", "gauge", "Threads of the replicas, by what they do.", ("state",), by_use)
        for name, help_, by_reason in (
            ("sage_replica_restarts_total", _RESTARTS, replicas.supervision.replacements),
            ("sage_retries_total", _RETRIES, replicas.router.retries),
        ):
            yield Family(name, "counter", help_, ("reason",), {(reason,): n for reason, n in by_reason.items()})
