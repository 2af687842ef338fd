"""Stops one service: refuses new calls, lets accepted calls finish, then stops its replicas or detaches from them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sage_plugins.threads import start_thread
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.deployment.replicas.departure import Departure
    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.deployment.replicas.starting import Launcher
    from sage_plugins.deployment.replicas.supervision import ReplicaSupervisor

__all__ = ["Stopping"]


class Stopping:
    """Stops one service. All methods are safe from any thread."""

    def __init__(
        self,
        replicas: ReplicaSet,
        launcher: Launcher,
        departure: Departure,
        supervisor: ReplicaSupervisor,
    ) -> None:
        """
        Prepare; stops nothing.

        Args:
            replicas: The service's replicas.
            launcher: Holds the target, which is closed at the end.
            departure: Stops replicas.
            supervisor: Starts replacements; it is closed first.
        """
        self._replicas = replicas
        self._router = replicas.router
        self._life = replicas.life
        self._clock = replicas.clock
        self._launcher = launcher
        self._departure = departure
        self._supervisor = supervisor

    def end(self, limit: float, *, background: bool, leaves: bool = False) -> None:
        """
        Stop the service; does nothing before its start.

        Args:
            limit: Seconds for the accepted calls.
            background: Whether to return at once, and stop in a background thread.
            leaves: Whether only this process detaches, and the replicas go on.
        """
        elastic = self._replicas.elastic
        if elastic is not None and not background:
            elastic.wait_awake(limit)
        with self._life.condition:
            if self._life.state in (ReplicaState.PENDING, ReplicaState.STOPPED):
                return
            if elastic is not None:
                elastic.close()
            first = self._life.begin_end()
            self._supervisor.close()
        if not first:
            if not background:
                self._life.wait_stopped()
        elif background:
            start_thread(lambda: self._drain(limit, leaves=leaves), f"{self._replicas.name}-stop")
        else:
            self._drain(limit, leaves=leaves)

    def _drain(self, limit: float, *, leaves: bool) -> None:
        with self._replicas.starting:  # see `ServiceTask.begin`
            until = self._clock.monotonic() + limit
        idle = threading.Event()
        try:
            if leaves:
                self._replicas.reach.leave()
            else:
                self._replicas.reach.stopping()
            self._router.drain("is stopping", idle.set)
            if not self._router.lanes:  # no replica can run the waiting calls
                self._router.end()
            idle.wait(limit)
            self._router.end()
            if leaves:
                self._departure.leave_all()
            else:
                self._departure.vacate_all(until - self._clock.monotonic())
                self._replicas.reach.stopped()
                self._departure.stop_all(until - self._clock.monotonic())
                self._replicas.reach.ended()
            self._launcher.close()
        finally:
            self._replicas.watchers.close()
            self._life.end()

    def close(self, limit: float, *, background: bool) -> None:
        """
        Stop the service. If it has not started yet, it never starts.

        Replicas that outlive this process go on.
        """
        if self._life.never_begin():
            self._router.drain("was never started and is closed", lambda: None)
            return
        self.end(limit, background=background, leaves=self._replicas.reach.outlives)

    def close_to_outsiders(self, watch: Callable[[], None]) -> None:
        """As `ServiceTask.close_to_outsiders`."""
        if self._life.wanted or self._life.state is ReplicaState.DRAINING:
            self._life.refuses_outsiders = True
            self._router.close_to_outsiders("is stopping", watch)
