"""Scales one service automatically: a timer looks at the load, and the number of replicas follows."""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.deployment.replicas.waiting import stats_of
from sage_plugins.errors import NoReplicaError, PluginError, text_of
from sage_plugins.interfaces import Load
from sage_plugins.resilience.autoscaling import AutoscaleSettings, Scaler
from sage_plugins.resilience.restarts import MOST_STARTS
from sage_plugins.texts import counted
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.clock import Timer
    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.resilience.autoscaling import Scaling
    from sage_plugins.values import Refused

__all__ = ["ServiceScaler", "create_scaler"]

#: Number of looks within `look_back`, and the shortest and longest time between two looks, in seconds.
_LOOKS: Final = 10
_INTERVALS_S: Final = (0.05, 1.0)


def create_scaler(replicas: ReplicaSet) -> Scaler:
    """
    Return the `Scaler` of a service with an autoscaler.

    Raises:
        PluginError: The autoscaler cannot be made.
    """
    config, choice = replicas.composition.config, replicas.composition.autoscaler
    assert choice is not None  # noqa: S101 - for the type checker
    try:
        autoscaler = choice.create()
    except Exception as error:
        msg = f"autoscaler '{choice.id}' from {choice.source} cannot be made: {text_of(error)}"
        raise PluginError(msg) from error
    return Scaler(AutoscaleSettings.of(config.autoscale or {}), autoscaler.decide, choice.id)


class ServiceScaler:
    """
    Looks at the load of one service periodically, and changes its number of replicas.

    A timer of the clock starts each look. The look runs in its own thread, because a policy or a replica may be slow.
    There is no other look while replicas are being started. A call that finds no replica starts a look at once.
    Thread-safe.
    """

    def __init__(
        self,
        replicas: ReplicaSet,
        scaler: Scaler,
        room: Callable[[int], tuple[int, Refused | None]],
        adjust: Callable[[int, str], None],
    ) -> None:
        """
        Prepare; looks at nothing.

        Args:
            replicas: The service's replicas.
            scaler: Decides how many replicas there should be.
            room: `room(number)` returns how many of that number of replicas have room, and why no more.
            adjust: `adjust(number, why)` changes the number of replicas.
        """
        self._replicas = replicas
        self._machine = scaler
        self._room = room
        self._adjust = adjust
        self._clock = replicas.clock
        settings = AutoscaleSettings.of(replicas.composition.config.autoscale or {})
        self._bounds = settings.min, settings.max
        self._interval = min(max(settings.look_back / _LOOKS, _INTERVALS_S[0]), _INTERVALS_S[1])
        self._in_process = "in_process" in replicas.composition.target.registration.capabilities
        # All are guarded by ReplicaSet.condition.
        self._timer: Timer | None = None
        self._looking = False
        self._look_again = False  # whether a call found no replica since the present look began
        self._closed = False
        self._faulty = False  # whether the policy failed at the last look, which is logged once
        self._called_from_elsewhere = False  # whether another process called while there is no replica
        self._failures = 0  # failed starts in a row while there was no replica
        replicas.router.on_unserved = self.look_soon

    @property
    def wanted(self) -> int:
        """How many replicas the service should have."""
        return self._machine.wanted

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most replicas that the service may have."""
        return self._bounds

    @property
    def asleep(self) -> bool:
        """Whether there is no replica because the service had nothing to do; the next call starts one."""
        return self._replicas.lifecycle.state is ReplicaState.READY and not self._replicas.places

    # -- timer -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look; called when the service is ready."""
        with self._replicas.condition:
            self.scaled(len(self._replicas.places))
            self._set_timer()

    def scaled(self, replicas: int) -> None:
        """Accept a number of replicas that was set by hand; the next look starts from it."""
        self._machine.wanted = replicas

    def close(self) -> None:
        """Stop looking. Idempotent."""
        with self._replicas.condition:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def look_soon(self, *, from_elsewhere: bool = False) -> None:
        """Look now, because a call found no replica. *from_elsewhere*: the call waits in another process."""
        with self._replicas.condition:
            self._called_from_elsewhere |= from_elsewhere
            if self._looking:
                self._look_again = True
            elif self._timer is not None:  # it has started and is not closed
                self._timer.cancel()
                self._begin_look()

    def _set_timer(self) -> None:
        if not self._closed:
            self._timer = self._clock.call_at(self._clock.monotonic() + self._interval, self._on_timer)

    def _on_timer(self) -> None:
        with self._replicas.condition:
            if not self._looking and not self._closed:
                self._begin_look()

    def _begin_look(self) -> None:
        self._looking = True
        try:
            self._replicas.lifecycle.in_background(self._look, "autoscale")
        except RuntimeError:  # the interpreter is shutting down
            self._closed = True

    def _look(self) -> None:
        try:
            self._look_and_scale()
        finally:
            with self._replicas.condition:
                self._looking = False
                again, self._look_again = self._look_again, False
                if again and not self._closed:
                    self._begin_look()
                else:
                    self._set_timer()

    # -- a look ------------------------------------------------------------------------------------------------------

    def _look_and_scale(self) -> None:
        replicas = self._replicas
        if not replicas.wanted or replicas.router.unavailability is not None:
            return  # the service ends, or refuses calls until someone fixes it
        load, busy_at = self._load()
        try:
            scaling = self._machine.look(load, busy_at)
        except Exception as error:  # noqa: BLE001 - whatever a plugin's policy raises, the service goes on
            self._policy_failed(error)
            return
        self._faulty = False
        if scaling is not None:
            self._do(load.replicas, scaling)

    def _load(self) -> tuple[Load, float]:
        """Return the present load, and when a call last ended."""
        replicas, router = self._replicas, self._replicas.router
        waiting_elsewhere = replicas.reach.waiting_elsewhere()
        with replicas.condition:
            members = [each for each in replicas.members if each.state is not ReplicaState.STOPPED]
            should = len(replicas.places)
            ready = [each for each in members if each.in_service]
            self._called_from_elsewhere &= not should
            elsewhere = max(waiting_elsewhere, self._called_from_elsewhere)
        stats = stats_of(members, in_process=self._in_process)
        now = self._clock.monotonic()
        # Only a replica knows its calls from other processes. Only this process knows calls on their way to a replica.
        ongoing = sum(
            max(member.inflight, answer.get("running") or 0) for member, answer in zip(members, stats, strict=True)
        )
        ended = [now - answer["idle"] - (answer["age"] or 0.0) for answer in stats if answer.get("idle") is not None]
        load = Load(
            time_s=now,
            replicas=should,
            ready=len(ready),
            slots=sum(each.slots for each in ready),
            ongoing=ongoing,
            queued=router.waiting + router.parked + elsewhere,
            oldest_wait_s=router.oldest_wait(),
        )
        return load, max(ended, default=-inf)

    # -- scaling -----------------------------------------------------------------------------------------------------

    def _do(self, present: int, scaling: Scaling) -> None:
        number, monitors = scaling.replicas, self._replicas.monitors
        if number > present:
            number, refused = self._room(number)
            if refused is not None:
                what = f"{scaling.replicas} are wanted ({scaling.reason}), and there is room for {number}"
                monitors.tell("scaling_refused", f"{what}: {refused}")
                self._machine.failed(self._clock.monotonic())
            if number <= present:
                return
        try:
            self._adjust(number, scaling.reason)
        except Exception as error:  # noqa: BLE001 - whatever a constructor or a target raises, the service goes on
            self._machine.failed(self._clock.monotonic())
            if self._replicas.wanted:
                reason = f"from {present} to {counted(number, 'replica')} ({scaling.reason}): {text_of(error)}"
                monitors.tell("scaling_failed", reason)
                self._give_up_if_hopeless(error)
            return
        if number == scaling.replicas:
            self._machine.succeeded()
        self._failures = 0

    def _give_up_if_hopeless(self, error: BaseException) -> None:
        """Refuse the waiting calls after `MOST_STARTS` failed starts in a row without a replica."""
        if not self.asleep:
            return
        self._failures += 1
        if self._failures < MOST_STARTS:
            return
        self._failures = 0
        name = self._replicas.name
        msg = (
            f"service '{name}' has no replica: {MOST_STARTS} starts for calls that waited have failed, and none is "
            f"tried any more: {text_of(error)}. Fix that error, then call `scale('{name}', 1)`"
        )
        self._replicas.router.unavailable(lambda: NoReplicaError(msg, service=name))

    def _policy_failed(self, error: BaseException) -> None:
        """Report that the policy failed, once until it works again. The number of replicas stays."""
        if self._faulty:
            return
        self._faulty = True
        choice: Any = self._replicas.composition.autoscaler
        reason = f"autoscaler '{choice.id}' from {choice.source} failed, and changes nothing: {text_of(error)}"
        self._replicas.monitors.tell("scaling_failed", reason)
        logging.getLogger("sage_plugins").warning("service '%s': %s", self._replicas.name, reason, exc_info=error)

    # -- the end -----------------------------------------------------------------------------------------------------

    def wait_awake(self, limit: float) -> None:
        """Wait at most *limit* seconds for a replica for the waiting calls, before the service stops."""
        replicas, router = self._replicas, self._replicas.router
        with replicas.condition:
            replicas.condition.wait_for(
                lambda: (
                    router.lanes
                    or not (router.waiting or router.parked)
                    or router.unavailability is not None
                    or replicas.lifecycle.state is not ReplicaState.READY
                ),
                limit,
            )
