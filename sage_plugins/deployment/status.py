"""Returns the status of one service, and sends questions to its instances: health, attributes, stacks."""

from __future__ import annotations

import logging
from time import time as wall_clock
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.deployment.lifecycle import shown_state
from sage_plugins.deployment.measuring import measured_by
from sage_plugins.deployment.replicas.waiting import errors_of, stats_of
from sage_plugins.errors import DeployError, text_of
from sage_plugins.interfaces import ControlOp
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sage_plugins.deployment.balancing import Balancing
    from sage_plugins.deployment.replicas.member import Member
    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.interfaces.operations import MethodError
    from sage_plugins.metrics import ServiceMetrics

__all__ = ["Instances", "Status"]

#: Seconds between two checks of a replica while `wait_healthy` waits for it.
_ASK_AGAIN_S: Final = 0.1

#: Seconds for a replica to return the stacks of its threads.
_STACKS_S: Final = 5.0


class Status:
    """One service's status. From any thread."""

    def __init__(self, replicas: ReplicaSet, balancing: Balancing) -> None:
        """Prepare; *replicas* are the service's replicas, *balancing* holds their balancer."""
        self._replicas = replicas
        self._balancing = balancing
        self._is_remote = "in_process" not in replicas.composition.target.registration.capabilities
        self._active_at = wall_clock()  # when a call last ended, as of the last status; now, before any

    def drift(self) -> dict[str, Any]:
        """Return settings that were changed since the deployment: the number of replicas, the load balancer."""
        changed: dict[str, Any] = {}
        replicas = len(self._replicas.places)
        if replicas and self._replicas.scaler is None and replicas != self._replicas.composition.config.replicas:
            changed["replicas"] = replicas
        balancer = self._balancing.choice
        if balancer is not None and balancer is not self._replicas.composition.balancer:
            changed["load_balancer"] = balancer.id
        return changed

    def counts(self) -> list[Mapping[str, Any]]:
        """Return the counts of all replicas, including those that have left: {monitor id: snapshot} each."""
        with self._replicas.condition:  # so that each replica is in exactly one of the two
            members, counts_of_departed = self._replicas.members, self._replicas.counts_of_departed
        stats = stats_of(members, in_process=not self._is_remote)
        return [counts_of_departed, *(each["recorders"] for each in stats)]

    def overview(self) -> dict[str, Any]:
        """Return the part of the status that needs no question to a replica; see `Environment.overview`."""
        replicas = self._replicas
        with replicas.condition:
            members = replicas.members
            shown = [(member, str(member.state), member.lane) for member in members]
            staying = [each for each in members if not each.is_leaving]
            missing = _reasons_not_ready(staying)
            ready = sum(member.state is ReplicaState.READY for member in staying)
        return {
            "state": shown_state(replicas.state, ready, len(staying)),
            "health": {"ready": ready, "replicas": len(staying), **({"missing": missing} if missing else {})},
            "replicas": [
                {
                    "id": member.id,
                    "state": state,
                    "inflight": lane.inflight,
                    "slots": lane.slots,
                    "abandoned": lane.abandoned,
                }
                for member, state, lane in shown
            ],
            "replaced": replicas.supervision.replacement_count,
            "queue": replicas.router.waiting,
            "queue_capacity": self._replicas.composition.config.queue_size,
            **self._scaling(),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the status; see `Environment.get_service_status`."""
        replicas = self._replicas
        with replicas.condition:  # so that each replica is in exactly one of the two
            members, counts_of_departed = replicas.members, replicas.counts_of_departed
        stats = stats_of(members, in_process=not self._is_remote)
        balancer = self._balancing.choice
        now = wall_clock()
        active = [now - answer["idle"] - answer["age"] for answer in stats if answer.get("idle") is not None]
        self._active_at = max(self._active_at, *active) if active else self._active_at
        with replicas.condition:  # so that state, error and history match
            states = [(str(member.state), member.error, list(member.history)) for member in members]
            staying = [each for each in members if not each.is_leaving]
            missing = _reasons_not_ready(staying)
            ready = sum(member.state is ReplicaState.READY for member in staying)
        threads = [0 if each["runner"] is None else each["runner"].threads for each in stats]
        snapshots = [counts_of_departed, *(each["recorders"] for each in stats)]
        own = measured_by(members, counts_of_departed, stats)
        summaries = replicas.monitors.summaries(snapshots)
        return {
            "service_name": replicas.name,
            "state": shown_state(replicas.state, ready, len(staying)),
            "deployment_config": self._replicas.composition.config,
            "metrics": self._metrics(summaries.pop("metrics", {}), sum(threads)),
            "health": {
                "healthy": ready == len(staying) and (bool(staying) or self._is_asleep),
                "ready": ready,
                "replicas": len(staying),
                **({"missing": missing} if missing else {}),
            },
            "replicas": [
                {
                    "id": member.id,
                    "state": state,
                    "node": member.lane.node,
                    "inflight": member.lane.inflight,
                    "slots": member.lane.slots,
                    "abandoned": member.lane.abandoned,
                    "threads": number,
                    "pid": answer["pid"],
                    "stats_age": answer["age"],
                    "error": error,
                    "since": member.since,
                    "restarts": member.spec.generation,
                    "standby": balancer is None and state == ReplicaState.READY and not member.lane.serves,
                    "history": history,
                    **_usage(answer),
                }
                for member, number, answer, (state, error, history) in zip(members, threads, stats, states, strict=True)
            ],
            "replaced": replicas.supervision.replacement_count,
            **self._scaling(),
            "own_metrics": {name: each.rows() for name, each in own.items() if not name.startswith("sage_")},
            "monitors": summaries,
        }

    @property
    def _is_asleep(self) -> bool:
        scaler = self._replicas.scaler
        return scaler is not None and scaler.asleep

    def _scaling(self) -> dict[str, Any]:
        """Return how many replicas the autoscaler wants, and the bounds; empty for a fixed number."""
        scaler = self._replicas.scaler
        if scaler is None:
            return {}
        fewest, most = scaler.bounds
        return {"autoscale": {"wanted": scaler.wanted, "min": fewest, "max": most}}

    def errors(self) -> list[MethodError]:
        """As `Operations.errors`."""
        from sage_plugins.service.method_errors import add_up

        return add_up(errors_of(self._replicas.members, in_process=not self._is_remote))

    def statistics(self, type_name: str) -> dict[str, Any]:
        """
        Return the status with all keys of SAGE's `get_statistics()`.

        The counts come from the monitor `metrics`, over all replicas; they are 0 without it. `last_activity_time` is
        when a call last ended; before the first call, when the task was made. The request queue is the service's own.
        The number of response queues is 0, because each request brings its own. For services in other processes,
        `actor_id` and `ray_node_id` are those of the first replica.

        Args:
            type_name: Value of `service_type`.
        """
        status = self.as_dict()
        metrics = status["metrics"]
        is_running = self._replicas.state in {ReplicaState.READY, ReplicaState.CRASH_LOOP}
        found = {
            "service_name": self._replicas.name,
            "service_type": type_name,
            "is_running": is_running,
            "request_count": metrics.request_count,
            "error_count": metrics.error_count,
            "last_activity_time": self._active_at,
            "service_class": self._replicas.composition.factory.service_class.__name__,
            "has_service_context": True,
            "request_queue_available": is_running,
            "request_queue_id": self._replicas.name,
            "request_queue_type": "service",
            "response_queues_count": 0,
            "response_queue_names": [],
        }
        if self._is_remote:
            first = next(iter(status["replicas"]), {"id": None, "node": None})
            found |= {"actor_id": first["id"], "ray_node_id": first["node"]}
        return found

    def _metrics(self, measured: Mapping[str, Any], threads: int) -> ServiceMetrics:
        from sage_plugins.metrics import ServiceMetrics

        return ServiceMetrics(
            service_name=self._replicas.name,
            active_threads=threads,
            queue_size=self._replicas.router.waiting,
            abandoned_count=sum(member.abandoned for member in self._replicas.members),
            **measured,
        )


def _reasons_not_ready(members: Sequence[Member]) -> dict[str, str]:
    """Return why replicas are not ready, by ID, for those that have ended or have a reason."""
    not_ready = [each for each in members if each.state is not ReplicaState.READY]
    return {each.id: each.reason_line for each in not_ready if each.ended or each.reason_line}


def _usage(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the busy cores and the bytes of a replica's process; None if the monitor `metrics` has not measured it."""
    process = answer["recorders"].get("metrics", {}).get("process") or {}
    cpu = process.get("cpu_percent")
    return {"cpu": None if cpu is None else cpu / 100, "memory": process.get("memory_bytes")}


class Instances:
    """Sends questions to the instances, while calls run. From any thread."""

    def __init__(self, replicas: ReplicaSet) -> None:
        self._replicas = replicas
        self._timeout = replicas.composition.config.health_check_timeout

    def get(self, name: str) -> Any:
        """As `ServiceTask.get_attribute`."""
        return self._ask(self._askable()[0], ControlOp.GET, name)

    def set(self, name: str, value: Any) -> None:
        """As `ServiceTask.set_attribute`."""
        for member in self._askable():
            self._ask(member, ControlOp.SET, (name, value))

    def terminate(self) -> None:
        """Call `terminate()` of each instance that has it; log what it raises."""
        for member in self._replicas.serving:
            try:
                self._ask(member, ControlOp.TERMINATE)
            except Exception:
                logging.getLogger("sage_plugins").exception("terminate() of %s failed", member.id)

    def stacks(self, replica: str) -> str:
        """As `Operations.stacks`."""
        member = next((each for each in self._replicas.members if each.id == replica), None)
        if member is None:
            have = ", ".join(each.id for each in self._replicas.members) or "none"
            msg = f"service '{self._replicas.name}' has no replica {replica!r}; it has {have}"
            raise DeployError(msg, service=self._replicas.name, replica=replica)
        try:
            text: str = member.control(ControlOp.STACKS, timeout=_STACKS_S)
        except Exception as error:
            msg = f"{replica} does not say where its threads are: {text_of(error)}"
            raise DeployError(msg, service=self._replicas.name, replica=replica) from error
        return text

    def wait_healthy(self, limit: float) -> None:
        """As `ServiceTask.wait_healthy`, for at most *limit* seconds."""
        until = self._replicas.clock.monotonic() + limit
        self._wait_started(until, limit)
        for member in self._replicas.serving:
            for op in (ControlOp.CHECK, ControlOp.READY):
                self._wait_passed(member, op, until)

    def wait_steady(self, seconds: float) -> None:
        """
        Wait *seconds* seconds, in which every replica must stay ready.

        Raises:
            DeployError: A replica did not stay ready.
        """
        replicas, clock = self._replicas, self._replicas.clock
        until = clock.monotonic() + seconds
        timer = clock.call_at(until, self._wake)
        try:
            with replicas.condition:
                while clock.monotonic() < until:
                    for member in replicas.members:
                        if member.state is not ReplicaState.READY:
                            msg = f"service '{replicas.name}': {member.id} did not stay ready for {seconds:g} s"
                            raise DeployError(msg, service=replicas.name, replica=member.id)
                    replicas.condition.wait()
        finally:
            timer.cancel()

    def _wake(self) -> None:
        with self._replicas.condition:
            self._replicas.condition.notify_all()

    def _wait_started(self, until: float, limit: float) -> None:
        """Wait for the replicas that start, among them replacements of dead ones."""
        replicas = self._replicas
        with replicas.condition:
            while late := [member for member in replicas.members if member.is_coming and not member.up]:
                left = until - replicas.clock.monotonic()
                if left <= 0:
                    why = "; ".join(f"{each.id} is {each.state}: {each.reason_line}".rstrip(": ") for each in late)
                    msg = f"service '{replicas.name}' is not ready after {limit:g} s: {why}"
                    raise DeployError(msg, service=replicas.name, replica=late[0].id)
                replicas.condition.wait(min(left, _ASK_AGAIN_S))

    def _wait_passed(self, member: Member, op: ControlOp, until: float) -> None:
        while True:
            left = until - self._replicas.clock.monotonic()
            try:
                member.control(op, timeout=max(0.0, min(left, self._timeout)))
            except Exception as error:
                if left <= 0 or not member.up:
                    msg = (
                        f"service '{self._replicas.name}' replica {member.spec.index} did not pass check_"
                        f"{'health' if op is ControlOp.CHECK else 'ready'}() in time: {text_of(error)}"
                    )
                    raise DeployError(msg, service=self._replicas.name, replica=member.id) from error
                with self._replicas.condition:
                    self._replicas.condition.wait(min(_ASK_AGAIN_S, left))
            else:
                return

    def _askable(self) -> list[Member]:
        serving = self._replicas.serving
        if not serving:
            msg = (
                f"service '{self._replicas.name}' is {self._replicas.state} and has no instance to ask: start it first"
            )
            raise DeployError(msg, service=self._replicas.name)
        return serving

    def _ask(self, member: Member, op: ControlOp, arg: Any = None) -> Any:
        return member.control(op, arg, timeout=self._timeout)
