"""Stops one service: refuses new calls, lets accepted calls finish, then stops its replicas or detaches from them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sage_plugins.clock import checked_seconds
from sage_plugins.threads import start_thread
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.deployment.replicas.starting import Launcher
    from sage_plugins.deployment.replicas.stopper import ReplicaStopper
    from sage_plugins.deployment.replicas.supervision import ReplicaSupervisor

__all__ = ["ServiceStopper"]


class ServiceStopper:
    """Stops one service. Thread-safe."""

    def __init__(
        self,
        replicas: ReplicaSet,
        launcher: Launcher,
        stopper: ReplicaStopper,
        supervisor: ReplicaSupervisor,
    ) -> None:
        self._replicas = replicas
        self._router = replicas.router
        self._lifecycle = replicas.lifecycle
        self._clock = replicas.clock
        self._launcher = launcher
        self._stopper = stopper
        self._supervisor = supervisor

    def end(self, limit: float, *, background: bool, detaches: bool = False) -> None:
        """
        Stop the service; does nothing before its start.

        Args:
            limit: Seconds for the accepted calls.
            background: Whether to return at once, and stop in a background thread.
            detaches: Whether only this process detaches, and the replicas go on.

        Raises:
            TypeError: *limit* is no number. Nothing was stopped.
        """
        limit = checked_seconds(limit, "the drain timeout")
        scaler = self._replicas.scaler
        if scaler is not None and not background:
            scaler.wait_awake(limit)
        with self._lifecycle.condition:
            if self._lifecycle.state in (ReplicaState.PENDING, ReplicaState.STOPPED):
                return
            if scaler is not None:
                scaler.close()
            first = self._lifecycle.begin_end()
            self._supervisor.close()
        if not first:
            if not background:
                self._lifecycle.wait_stopped()
        elif background:
            start_thread(lambda: self._drain(limit, detaches=detaches), f"{self._replicas.name}-stop")
        else:
            self._drain(limit, detaches=detaches)

    def _drain(self, limit: float, *, detaches: bool) -> None:
        self._lifecycle.ends_here()
        until = self._clock.monotonic()
        try:
            with self._replicas.starting:  # see `ServiceTask.begin`
                until = self._clock.monotonic() + limit
            self._finish_calls(limit, detaches=detaches)
        except BaseException:  # a signal handler raised: stop now
            until = self._clock.monotonic()
            raise
        finally:
            try:
                self._end_replicas(until, detaches=detaches)
            finally:
                if not detaches:
                    self._router.drain("has stopped; deploy it again", lambda: None)
                self._replicas.monitors.close()
                self._lifecycle.end()

    def _finish_calls(self, limit: float, *, detaches: bool) -> None:
        if detaches:
            self._replicas.reach.leave()
        else:
            self._replicas.reach.stopping()
        idle = threading.Event()
        self._router.drain("is stopping", idle.set)
        if not self._router.lanes:  # no replica can run the waiting calls
            self._router.end()
        idle.wait(limit)

    def _end_replicas(self, until: float, *, detaches: bool) -> None:
        self._router.end()
        if detaches:
            self._stopper.detach_all()
        else:
            self._stopper.vacate_all(until - self._clock.monotonic())
            self._replicas.reach.stopped()
            self._stopper.stop_all(until - self._clock.monotonic())
            self._replicas.reach.ended()
        self._launcher.close()

    def close(self, limit: float, *, background: bool) -> None:
        """
        Stop the service. If it has not started yet, it never starts.

        Replicas that outlive this process go on.
        """
        if self._lifecycle.never_begin():
            self._router.drain("was never started and is closed", lambda: None)
            return
        self.end(limit, background=background, detaches=self._replicas.reach.outlives)

    def close_to_outsiders(self, watch: Callable[[], None]) -> None:
        """As `ServiceTask.close_to_outsiders`."""
        if self._lifecycle.wanted or self._lifecycle.state is ReplicaState.DRAINING:
            self._lifecycle.refuses_outsiders = True
            self._router.close_to_outsiders("is stopping", watch)
