"""One service that grows and shrinks by itself: the timer that looks at its load, and the changes that follow."""

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

__all__ = ["Elastic", "create_scaler"]

#: Looks within `look_back`, and seconds between two looks, at least and at most.
_LOOKS: Final = 10
_INTERVALS_S: Final = (0.05, 1.0)


def create_scaler(replicas: ReplicaSet) -> Scaler:
    """
    What decides how many replicas a service with an autoscaler has.

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


class Elastic:
    """
    Looks at the load of one service from its start to its end, and changes its number of replicas.

    A timer of the clock begins each look. The look runs in a thread of its own, because a policy or a replica that is
    asked may take time; while replicas are being started there is no other look. A call that finds no replica begins a
    look at once. All methods are safe from any thread.
    """

    def __init__(
        self,
        replicas: ReplicaSet,
        scaler: Scaler,
        room: Callable[[int], tuple[int, Refused | None]],
        adjust: Callable[[int, str], None],
    ) -> None:
        """
        Look at nothing yet.

        Args:
            replicas: The service's.
            scaler: Decides.
            room: How many replicas the service can have if it is to have so many, and why no more.
            adjust: Runs so many replicas from now on, for a reason.
        """
        self._replicas = replicas
        self._scaler = scaler
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
        self._again = False  # whether a call came without a replica since the present look began
        self._closed = False
        self._faulty = False  # whether the policy has failed, and that was logged
        self._called_from_elsewhere = False  # while there is no replica
        self._failures = 0  # starts in a row that failed while there was no replica
        replicas.router.on_unserved = self.look_soon

    @property
    def wanted(self) -> int:
        """How many replicas the service should have."""
        return self._scaler.wanted

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most replicas that the service may have."""
        return self._bounds

    @property
    def asleep(self) -> bool:
        """Whether there is no replica because there was nothing to do: the next call starts one."""
        return self._replicas.life.state is ReplicaState.READY and not self._replicas.places

    # -- when it looks -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The service is ready: look from now on."""
        with self._replicas.condition:
            self.scaled(len(self._replicas.places))
            self._set_timer()

    def scaled(self, replicas: int) -> None:
        """Somebody else has decided how many replicas there should be; the next look begins with that."""
        self._scaler.wanted = replicas

    def close(self) -> None:
        """Look no more. Idempotent."""
        with self._replicas.condition:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def look_soon(self, *, from_elsewhere: bool = False) -> None:
        """A call has come that no replica can take, or has come *from_elsewhere* to another process: look now."""
        with self._replicas.condition:
            self._called_from_elsewhere |= from_elsewhere
            if self._looking:
                self._again = True
            elif self._timer is not None:  # else it has not started, or is closed
                self._timer.cancel()
                self._begin_look()

    def _set_timer(self) -> None:
        if not self._closed:
            self._timer = self._clock.call_at(self._clock.monotonic() + self._interval, self._is_due)

    def _is_due(self) -> None:
        with self._replicas.condition:
            if not self._looking and not self._closed:
                self._begin_look()

    def _begin_look(self) -> None:
        self._looking = True
        try:
            self._replicas.life.in_background(self._look, "autoscale")
        except RuntimeError:  # the interpreter is shutting down
            self._closed = True

    def _look(self) -> None:
        try:
            self._look_and_do()
        finally:
            with self._replicas.condition:
                self._looking = False
                again, self._again = self._again, False
                if again and not self._closed:
                    self._begin_look()
                else:
                    self._set_timer()

    # -- what it sees ------------------------------------------------------------------------------------------------

    def _look_and_do(self) -> None:
        replicas = self._replicas
        if not replicas.wanted or replicas.router.unavailability is not None:
            return  # it ends, or waits for somebody to mend it
        load, busy_at = self._load()
        try:
            scaling = self._scaler.look(load, busy_at)
        except Exception as error:  # noqa: BLE001 - a policy is a stranger's, and the service goes on
            self._policy_failed(error)
            return
        self._faulty = False
        if scaling is not None:
            self._do(load.replicas, scaling)

    def _load(self) -> tuple[Load, float]:
        """The load at this moment, and when a call ended last."""
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
        # Calls of other processes are known to the replicas alone, and those on their way to one to this process alone.
        ongoing = sum(
            max(member.inflight, said.get("running") or 0) for member, said in zip(members, stats, strict=True)
        )
        ended = [now - said["idle"] - (said["age"] or 0.0) for said in stats if said.get("idle") is not None]
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

    # -- what it does ------------------------------------------------------------------------------------------------

    def _do(self, present: int, scaling: Scaling) -> None:
        number, watchers = scaling.replicas, self._replicas.watchers
        if number > present:
            number, refused = self._room(number)
            if refused is not None:
                what = f"{scaling.replicas} are wanted ({scaling.reason}), and there is room for {number}"
                watchers.tell("scaling_refused", f"{what}: {refused}")
                self._scaler.failed(self._clock.monotonic())
            if number <= present:
                return
        try:
            self._adjust(number, scaling.reason)
        except Exception as error:  # noqa: BLE001 - whatever a constructor or a target raises, the service goes on
            self._scaler.failed(self._clock.monotonic())
            if self._replicas.wanted:
                reason = f"from {present} to {counted(number, 'replica')} ({scaling.reason}): {text_of(error)}"
                watchers.tell("scaling_failed", reason)
                self._give_up_if_hopeless(error)
            return
        if number == scaling.replicas:
            self._scaler.succeeded()
        self._failures = 0

    def _give_up_if_hopeless(self, error: BaseException) -> None:
        """So many starts have failed while calls wait that another one is of no use."""
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
        """The number of replicas stays; said once, until the policy answers again."""
        if self._faulty:
            return
        self._faulty = True
        choice: Any = self._replicas.composition.autoscaler
        reason = f"autoscaler '{choice.id}' from {choice.source} failed, and changes nothing: {text_of(error)}"
        self._replicas.watchers.tell("scaling_failed", reason)
        logging.getLogger("sage_plugins").warning("service '%s': %s", self._replicas.name, reason, exc_info=error)

    # -- the end -----------------------------------------------------------------------------------------------------

    def wait_awake(self, limit: float) -> None:
        """Before the service stops: wait at most *limit* seconds for the replica that waiting calls have asked for."""
        replicas, router = self._replicas, self._replicas.router
        with replicas.condition:
            replicas.condition.wait_for(
                lambda: (
                    router.lanes
                    or not (router.waiting or router.parked)
                    or router.unavailability is not None
                    or replicas.life.state is not ReplicaState.READY
                ),
                limit,
            )
