"""
Decides when a service gets more or fewer replicas.

A state machine without threads, timers or a clock. `deployment.scaling` shows it the load periodically, and scales the
service to the returned number. The rules:

* The load is averaged over `look_back`. A policy, which is a plugin, computes a number of replicas from it.
* A number within `tolerance` of the present one changes nothing. For any other, the distance is multiplied by
  `upscale_factor` or `downscale_factor`; a factor below one still moves by one replica.
* The result is limited to `min` and `max`, and never less than the running calls need.
* More replicas must be wanted without a break for `upscale_delay`, fewer for `downscale_delay`. A look with another
  result restarts the delay.
* With `min: 0` the last replica stops after `scale_to_zero_delay` without calls. The next waiting call starts one at
  once.
* Every change of the number restarts all delays, even one from elsewhere, such as `scale`.
* A start that failed, or had no room, is tried again after 1 s, then after twice as long each time, up to 60 s.

The look-back, delays, factors and step to zero come from Ray Serve's autoscaling policy, the tolerance from the
Kubernetes HorizontalPodAutoscaler.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from math import ceil, inf, isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sage_plugins.config.nested_keys import AUTOSCALE_FIELDS
from sage_plugins.texts import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sage_plugins.interfaces import Load

__all__ = ["FIRST_WAIT_S", "LONGEST_WAIT_S", "AutoscaleSettings", "Scaler", "Scaling"]

#: Seconds before the first retry of a failed start; each further wait is twice as long.
FIRST_WAIT_S: Final = 1.0
#: Longest wait before a retry of a start, in seconds.
LONGEST_WAIT_S: Final = 60.0
#: Numbers of replicas that differ by less are equal, because means have rounding errors.
_EQUAL: Final = 1e-6


class AutoscaleSettings(NamedTuple):
    """The settings in `autoscale`, with its defaults; the attributes are its fields."""

    min: int
    max: int
    initial: int
    target_ongoing_requests: float | None
    target_queue_wait: float | None
    upscale_delay: float
    downscale_delay: float
    upscale_factor: float
    downscale_factor: float
    look_back: float
    tolerance: float
    scale_to_zero_delay: float

    @classmethod
    def of(cls, autoscale: Mapping[str, Any]) -> AutoscaleSettings:
        """Return the settings for the field *autoscale* of a configuration."""
        said = {name: info.default for name, info in AUTOSCALE_FIELDS.items()} | dict(autoscale)
        if said["initial"] is None:
            said["initial"] = max(1, said["min"])
        if "max" not in autoscale:
            said["max"] = max(1, said["min"], said["initial"])
        if said["scale_to_zero_delay"] is None:
            said["scale_to_zero_delay"] = said["downscale_delay"]
        return cls(**{name: said[name] for name in cls._fields})


class Scaling(NamedTuple):
    """
    A decision to scale.

    Attributes:
        replicas: Number of replicas from now on.
        reason: Why, with the numbers behind the decision.
    """

    replicas: int
    reason: str


class _LookBack:
    """The load of the last seconds; each look is weighted with the time since the look before it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._looks: deque[tuple[float, float, float]] = deque()  # when, calls, wait

    def add(self, time_s: float, calls: float, wait_s: float) -> None:
        looks = self._looks
        looks.append((time_s, calls, wait_s))
        while len(looks) > 1 and looks[1][0] <= time_s - self._seconds:
            looks.popleft()

    def means(self) -> tuple[float, float]:
        looks = tuple(self._looks)
        end = looks[-1][0]
        total = end - max(looks[0][0], end - self._seconds)
        if total <= 0:
            return looks[-1][1:]
        calls = wait = 0.0
        for (begin, *_), (until, now_calls, now_wait) in pairwise(looks):
            share = (until - max(begin, end - self._seconds)) / total
            calls += now_calls * share
            wait += now_wait * share
        return calls, wait


class Scaler:
    """
    Decides about one service. Only one thread at a time may use it.

    Attributes:
        wanted: How many replicas the service should have. It may have fewer while they start, or without room.
    """

    def __init__(self, settings: AutoscaleSettings, policy: Callable[[Load], float], name: str = "policy") -> None:
        """
        Start without any knowledge of the load.

        Args:
            settings: The service's settings.
            policy: `Autoscaler.decide`.
            name: ID of the autoscaler, for the reasons.
        """
        self.wanted = settings.initial
        self._settings = settings
        self._policy = policy
        self._name = name
        self._look_back = _LookBack(settings.look_back)
        self._replicas: int | None = None  # at the last look
        self._decided = False  # whether the last look decided something
        self._direction = 0  # 1 if more replicas are wanted, -1 if fewer are
        self._since = 0.0  # when the direction last changed
        self._most = 0  # direction -1: the highest number that a look has wanted since `look_back` after that
        self._busy_at = -inf  # when there last was a call
        self._slots = 0.0  # slots of one replica, as last seen
        self._wait = 0.0  # seconds before the next start, after a failed one
        self._not_before = -inf

    def look(self, load: Load, busy_at: float = -inf) -> Scaling | None:
        """
        Look at the load, and decide.

        Args:
            load: The present load; its means are not set.
            busy_at: When a call last ended, as far as known.

        Returns:
            The change to make now; None for none.

        Raises:
            ValueError: The policy returned no number of replicas.
            Exception: Any other error of the policy.
        """
        now, calls = load.time_s, load.ongoing + load.queued
        self._look_back.add(now, calls, load.oldest_wait_s)
        self._notice(load, calls, busy_at)
        if not load.replicas:
            return self._wake(load)
        step, reason = self._step(load)
        direction = (step > load.replicas) - (step < load.replicas)
        if direction != self._direction:
            self._direction, self._since, self._most = direction, now, 0
        if direction <= 0:
            self.wanted = load.replicas
            if now - self._since >= self._settings.look_back:  # until then, the means still include load from before
                self._most = max(self._most, step)
        if not direction or (step and now < self._due(direction)):
            return None
        if not step:  # `_step` has already checked `scale_to_zero_delay`
            return self._decide(now, 0, reason)
        lasted = f"for {now - self._since:.3g} s"
        if direction < 0:  # the highest number wanted in this time may soon be wanted again
            most = max(step, self._most)
            return self._decide(now, most, f"{reason}, and no more than {counted(most, 'replica')} {lasted}")
        return self._decide(now, step, f"{reason}, {lasted}")

    def failed(self, now: float) -> None:
        """Report that the last decision could not be applied; the next try waits."""
        self._wait = min(max(2 * self._wait, FIRST_WAIT_S), LONGEST_WAIT_S)
        self._not_before = now + self._wait

    def succeeded(self) -> None:
        """Report that the last decision was applied."""
        self._wait = 0.0

    def _notice(self, load: Load, calls: int, busy_at: float) -> None:
        """Record the load. If the number of replicas has changed, restart all delays, and accept the new number."""
        self._busy_at = load.time_s if calls else max(self._busy_at, busy_at)
        if load.ready:
            self._slots = load.slots / load.ready
        if load.replicas != self._replicas:
            if not self._decided:
                self.wanted = load.replicas
            self._direction, self._busy_at = 0, load.time_s
        self._replicas, self._decided = load.replicas, False

    def _wake(self, load: Load) -> Scaling | None:
        calls = load.ongoing + load.queued
        if not calls:
            self.wanted = 0
            return None
        if load.time_s < self._not_before:
            return None
        needed = ceil(calls / self._aim - _EQUAL)
        return self._decide(load.time_s, self._bounded(needed), f"{_counted(calls)} while there is no replica")

    def _step(self, load: Load) -> tuple[int, str]:
        """Return how many replicas this look wants, before any delay, and why."""
        settings, replicas = self._settings, load.replicas
        idle = load.time_s - self._busy_at
        calls = load.ongoing + load.queued
        if settings.min == 0 and replicas == 1 and not calls and idle >= settings.scale_to_zero_delay:
            return 0, f"no call for {idle:.3g} s"
        mean_calls, mean_wait = self._look_back.means()
        shown = load._replace(
            mean_calls=mean_calls,
            mean_wait_s=mean_wait,
            target_ongoing_requests=self._aim,
            target_queue_wait=settings.target_queue_wait,
        )
        wanted = self._policy(shown)
        if not isinstance(wanted, (int, float)) or not isfinite(wanted) or wanted < 0:
            msg = f"{self._name} gave {wanted!r:.50}, which is no number of replicas"
            raise ValueError(msg)
        step = self._bounded(max(self._moved(replicas, wanted), self._needed_now(load)))
        reason = (
            f"{self._name} wants {wanted:.3g}: {mean_calls:.3g} calls run or wait on average over "
            f"{settings.look_back:g} s, {shown.target_ongoing_requests:g} for each replica are aimed at"
        )
        if settings.target_queue_wait is not None:
            reason += f", and they wait {mean_wait:.3g} s, with {settings.target_queue_wait:g} s aimed at"
        return step, reason

    def _moved(self, replicas: int, wanted: float) -> int:
        """Return the next number on the way to *wanted*."""
        ratio = wanted / replicas
        if abs(ratio - 1) <= self._settings.tolerance + _EQUAL:
            return replicas
        whole = ceil(wanted - _EQUAL)
        if ratio > 1:
            moved = replicas * (1 + (ratio - 1) * self._settings.upscale_factor)
            return min(whole, max(ceil(moved - _EQUAL), replicas + 1))
        if whole >= replicas:
            return replicas
        moved = replicas * (1 - (1 - ratio) * self._settings.downscale_factor)
        return max(whole, min(ceil(moved - _EQUAL), replicas - 1))

    def _needed_now(self, load: Load) -> int:
        """Return how many of the present replicas the running calls need."""
        return min(load.replicas, ceil(load.ongoing / self._slots - _EQUAL)) if self._slots else 0

    @property
    def _aim(self) -> float:
        """
        Wanted calls for each replica: by default its slots, so that all its threads are used first, but at least 2.
        """
        aim = self._settings.target_ongoing_requests
        return max(2.0, self._slots) if aim is None else aim

    def _bounded(self, replicas: int) -> int:
        return min(max(replicas, self._settings.min, 1), self._settings.max)

    def _due(self, direction: int) -> float:
        if direction > 0:
            return max(self._since + self._settings.upscale_delay, self._not_before)
        return self._since + self._settings.downscale_delay

    def _decide(self, now: float, replicas: int, reason: str) -> Scaling:
        self.wanted = replicas
        self._decided = True
        self._direction, self._since = 0, now
        return Scaling(replicas, reason)


def _counted(calls: int) -> str:
    return "a call waits" if calls == 1 else f"{calls} calls wait"
