"""Starts a service for the first call of a handle, and waits until the service is ready."""

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
    Makes a service ready for the first call of a handle.

    A call from a start hook does not wait here, because the called service may need the hook's own service. Such a call
    is queued at once and waits in the queue, where deadlocks are detected. Thread-safe.
    """

    def __init__(
        self, replicas: ReplicaSet, begin: Callable[[], None], wait_ready: Callable[[], None], undo: Callable[[], None]
    ) -> None:
        """
        Prepare; starts nothing.

        Args:
            replicas: The service's replicas.
            begin: Starts the service; returns at once.
            wait_ready: Waits until the service is ready; raises DeployError if it does not become ready.
            undo: Stops what was started; does not wait.
        """
        self._replicas = replicas
        self._begin = begin
        self._wait_ready = wait_ready
        self._undo = undo
        self._watched = threading.Lock()  # taken by the first hook that calls the service, and never released

    def prepare(self, start_running: Callable[[], None], failed: Callable[[], None]) -> None:
        """
        Start the service and wait until it is ready. Does not wait if the caller is a start hook.

        Args:
            start_running: Starts the service and waits.
            failed: Called if the service does not become ready after a call from a start hook.

        Raises:
            DeployError: The service cannot be started, or did not become ready.
        """
        lifecycle = self._replicas.lifecycle
        if lifecycle.state is ReplicaState.READY:
            return
        # The thread that began the start stops the service after a failure; an earlier stop would hide the error.
        begins = lifecycle.state is ReplicaState.PENDING
        self._begin()
        with lifecycle.condition:
            if lifecycle.state is not ReplicaState.STARTING:
                return
            caller = current_call()
            if caller is not None and caller.prepares:
                if self._watched.acquire(blocking=False):
                    lifecycle.in_background(lambda: self._watch(failed, begins=begins), "first-call")
                return
        start_running()

    def _watch(self, failed: Callable[[], None], *, begins: bool) -> None:
        """Fail the waiting calls if the service does not become ready, because the hook may be waiting for its call."""
        try:
            self._wait_ready()
        except DeployError as error:
            if begins:
                failed()  # first: a caller that gets the error may call again
            self._replicas.router.unavailable(partial(self._not_ready, error))
            if begins:
                self._undo()

    def _not_ready(self, why: DeployError) -> DeployError:
        """Return a new error, one for each waiting call."""
        error = DeployError(str(why), service=self._replicas.name, replica=why.replica)
        error.__cause__ = why.__cause__
        return error

    def seconds_to_start(self) -> float:
        """Return the seconds that a call may take longer because the service is being started; 0 if it is not."""
        replicas = self._replicas
        return replicas.composition.config.startup_timeout if replicas.lifecycle.state is ReplicaState.STARTING else 0.0
