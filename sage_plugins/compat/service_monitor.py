"""`ServiceMonitor` reads one service's status, now or periodically."""

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
    A reading of a `ServiceMonitor` at one moment.

    Attributes:
        at: `monotonic()` of the service's clock, in seconds.
        metrics: The service's metrics.
        health: `healthy`, `ready` (number of ready replicas) and `replicas` (their number).
    """

    at: float
    metrics: ServiceMetrics
    health: Mapping[str, Any]


class ServiceMonitor:
    """
    Shows the status of a service, and can read it periodically.

    The service's own monitors check replicas and count calls, whether this object exists. Thread-safe.

    Attributes:
        task: The task of the service.
        deployment_config: Configuration of the service.

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
        Make a monitor of *task*; reads nothing yet.

        Args:
            task: The task of the service.
            keep: Maximum readings to keep, 1 or more. The default is one hour at the default interval.

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
        """The present metrics of the service."""
        metrics: ServiceMetrics = self.task.status()["metrics"]
        return metrics

    @property
    def health(self) -> Mapping[str, Any]:
        """The present health: `healthy`, `ready` (number of ready replicas) and `replicas` (their number)."""
        health: Mapping[str, Any] = self.task.status()["health"]
        return health

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The periodic readings, oldest first; at most `keep` of them."""
        return tuple(self._readings)

    def get_service_status(self) -> dict[str, Any]:
        """Return the present status of the service, as `Environment.get_service_status`."""
        return self.task.status()

    def start_monitoring(self) -> None:
        """
        Read the status now and then every `health_check_interval` seconds, on a separate thread.

        Does nothing if it has started already, or if `enable_metrics` is false. Only `stop_monitoring` ends it; the end
        of the service does not.
        """
        with self._lock:
            if self._running is None and self.deployment_config.enable_metrics:
                self._running = _Running(self.task, self.deployment_config.health_check_interval, self._readings)

    def stop_monitoring(self) -> None:
        """Stop the periodic reading. The readings are kept. Idempotent."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.stop()


class _Running:
    """The thread that reads. A timer only wakes it, because a reading takes too long for a timer's callback."""

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
