"""A look at one service from outside: its status now, and readings of it over time."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sage_plugins.clock import Timer
    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.deployment.task import ServiceTask
    from sage_plugins.metrics import ServiceMetrics

__all__ = ["Reading", "ServiceMonitor"]


class Reading(NamedTuple):
    """
    What a `ServiceMonitor` saw at one moment.

    Attributes:
        at: `monotonic()` of the service's clock, seconds.
        metrics: What had been measured by then.
        health: `healthy`, and how many were `ready` of how many `replicas`.
    """

    at: float
    metrics: ServiceMetrics
    health: Mapping[str, Any]


class ServiceMonitor:
    """
    Shows the status of a service, and reads it periodically if asked to.

    What it shows is gathered by the service's own monitors: replicas are checked and calls are counted whether or not
    anybody looks. All methods are safe from any thread.

    Attributes:
        task: The service.
        deployment_config: How it is deployed.

    Example:
        ```python
        monitor = ServiceMonitor(env.task("kv"))
        monitor.start_monitoring()
        monitor.get_service_status()["health"]
        monitor.stop_monitoring()
        ```
    """

    def __init__(self, task: ServiceTask, *, keep: int = 360) -> None:
        """
        Watch *task*; reads nothing yet.

        Args:
            task: The service.
            keep: Readings that are remembered, 1 or more: by default an hour's at the default interval.

        Raises:
            ValueError: *keep* is below 1.
        """
        if keep < 1:
            msg = f"keep must be 1 or more, got {keep!r}"
            raise ValueError(msg)
        self.task = task
        self.deployment_config: ServiceDeploymentConfig = task.composition.config
        self._readings: deque[Reading] = deque(maxlen=keep)
        self._lock = threading.Lock()
        self._running: _Running | None = None  # guarded by _lock

    @property
    def metrics(self) -> ServiceMetrics:
        """What has been measured of the service until now."""
        metrics: ServiceMetrics = self.task.status()["metrics"]
        return metrics

    @property
    def health(self) -> Mapping[str, Any]:
        """`healthy`, and how many are `ready` of how many `replicas`, now."""
        health: Mapping[str, Any] = self.task.status()["health"]
        return health

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The periodic readings, oldest first; at most `keep` of them."""
        return tuple(self._readings)

    def get_service_status(self) -> dict[str, Any]:
        """The service at a glance, now; see `Environment.get_service_status`."""
        return self.task.status()

    def start_monitoring(self) -> None:
        """
        Read the status now and every `health_check_interval` seconds, on a thread of its own.

        Does nothing if that goes on already, or if the configuration's `enable_metrics` is off. It ends with
        `stop_monitoring` and does not end with the service.
        """
        with self._lock:
            if self._running is None and self.deployment_config.enable_metrics:
                self._running = _Running(self.task, self.deployment_config.health_check_interval, self._readings)

    def stop_monitoring(self) -> None:
        """Read no more; the readings stay. Idempotent."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.stop()


class _Running:
    """The thread that reads. A timer wakes it, because a reading may take longer than a timer's callback may."""

    def __init__(self, task: ServiceTask, interval: float, readings: deque[Reading]) -> None:
        self._task = task
        self._clock = task.clock
        self._interval = interval
        self._readings = readings
        self._wake = threading.Semaphore(1)
        self._stopped = False
        self._timer: Timer | None = None
        self._thread = threading.Thread(target=self._read, name=f"{task.service_name}-monitor", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            self._wake.acquire()
            if self._stopped:
                return
            status = self._task.status()
            now = self._clock.monotonic()
            self._timer = self._clock.call_at(now + self._interval, self._wake.release)
            self._readings.append(Reading(now, status["metrics"], status["health"]))

    def stop(self) -> None:
        self._stopped = True
        self._wake.release()
        if self._thread is not threading.current_thread():
            self._thread.join()
        if self._timer is not None:
            self._timer.cancel()
