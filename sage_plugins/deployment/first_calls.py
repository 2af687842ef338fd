"""How the first call of a handle finds the way to the replicas: it starts the service and waits until that is ready."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from sage_plugins.call.current import current_call
from sage_plugins.errors import DeployError
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.deployment.replicas.replica_set import ReplicaSet

__all__ = ["FirstCalls"]


class FirstCalls:
    """
    Has a service ready for the first call of a handle.

    The start hooks of a replica wait for no service: what they call may be what their own service is needed for. Their
    calls are queued at once, and wait there, where a deadlock is found. All methods are safe from any thread.
    """

    def __init__(
        self, replicas: ReplicaSet, begin: Callable[[], None], wait_ready: Callable[[], None], undo: Callable[[], None]
    ) -> None:
        """
        Have nothing started yet.

        Args:
            replicas: The service's.
            begin: Starts it; returns at once.
            wait_ready: Waits until it is ready; raises DeployError if it will not be.
            undo: Stops what was started, and waits for nothing.
        """
        self._replicas = replicas
        self._begin = begin
        self._wait_ready = wait_ready
        self._undo = undo
        self._watched = threading.Lock()  # taken by the first hook that calls the service, for good

    def prepare(self, start_running: Callable[[], None], failed: Callable[[], None]) -> None:
        """
        Have the service started, and ready unless a start hook asks.

        Args:
            start_running: Starts it and waits.
            failed: Told if it does not become ready although a hook has called it.

        Raises:
            DeployError: It cannot be started, or did not become ready.
        """
        life = self._replicas.life
        if life.state is ReplicaState.READY:
            return
        # Who begins it stops it if it fails: before that, somebody else may still have to hear why.
        begins = life.state is ReplicaState.PENDING
        self._begin()
        with life.condition:
            if life.state is not ReplicaState.STARTING:
                return
            caller = current_call()
            if caller is not None and caller.prepares:
                if self._watched.acquire(blocking=False):
                    life.in_background(lambda: self._watch(failed, begins=begins), "first-call")
                return
        start_running()

    def _watch(self, failed: Callable[[], None], *, begins: bool) -> None:
        """Tell the calls that wait if there will be no replica; whoever made the first may be waiting for it."""
        try:
            self._wait_ready()
        except DeployError as error:
            if begins:
                failed()  # first: who hears of it may call again
            self._replicas.router.unavailable(partial(self._not_ready, error))
            if begins:
                self._undo()

    def _not_ready(self, why: DeployError) -> DeployError:
        """A new error for each call that waited."""
        error = DeployError(str(why), service=self._replicas.name, replica=why.replica)
        error.__cause__ = why.__cause__
        return error

    def seconds_to_start(self) -> float:
        """How much longer than usual a call may take because the service is being started."""
        replicas = self._replicas
        return replicas.composition.config.startup_timeout if replicas.life.state is ReplicaState.STARTING else 0.0
