"""Holds one service's state, from before its start until it has stopped."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from sage_plugins.clock import SYSTEM
from sage_plugins.threads import start_thread
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ServiceLifecycle", "shown_state"]

#: Seconds until a background thread that the system did not allow is tried again.
_AGAIN_S: Final = 1.0


class ServiceLifecycle:
    """
    The state of a service, and its background threads, which it waits for when it stops.

    Thread-safe. Some must be called under `condition`; they say so.

    Attributes:
        condition: Guards this state and the states of the replicas, and is notified of every change.
        state: `pending`, `starting`, `ready`, `draining` or `stopped`.
        refuses_outsiders: Whether the service accepts only calls from inside other services' calls.
    """

    def __init__(self, service: str) -> None:
        """
        Begin in state `pending`.

        Args:
            service: The service's name, for the names of its threads.
        """
        self._service = service
        self.condition = threading.Condition()
        self.state = ReplicaState.PENDING
        self.refuses_outsiders = False
        self._threads: set[threading.Thread] = set()  # guarded by condition
        self._has_stopped = False  # guarded by condition, as the next
        self._ends_in: threading.Thread | None = None  # the thread that stops the service

    @property
    def wanted(self) -> bool:
        """Whether the service should have replicas: it starts or is ready. Under `condition`."""
        return self.state in {ReplicaState.STARTING, ReplicaState.READY}

    def begin(self) -> bool:
        """Enter `starting`. Return False if the service was started before."""
        with self.condition:
            first = self.state is ReplicaState.PENDING
            if first:
                self.state = ReplicaState.STARTING
            return first

    def become_ready(self) -> None:
        """Enter `ready`, once every replica is ready; under `condition`."""
        self.state = ReplicaState.READY

    def never_begin(self) -> bool:
        """Enter `stopped` from `pending`, so that the service never starts. Return False if it has started."""
        with self.condition:
            never = self.state is ReplicaState.PENDING
            if never:
                self.state = ReplicaState.STOPPED
                self._has_stopped = True
                self.condition.notify_all()
            return never

    def begin_end(self) -> bool:
        """Enter `draining`. Return False if another thread has done so. Under `condition`."""
        first = self.state is not ReplicaState.DRAINING
        if first:
            self.ends_here()
        self.state = ReplicaState.DRAINING
        self.condition.notify_all()
        return first

    def ends_here(self) -> None:
        """Note that this thread stops the service."""
        self._ends_in = threading.current_thread()

    def end(self) -> None:
        """Enter `stopped`, wait for the service's threads, then wake `wait_stopped`."""
        self.ends_here()
        with self.condition:
            self.state = ReplicaState.STOPPED
            self.condition.notify_all()
        while threads := self._others():  # each may have started another one
            for thread in threads:
                thread.join()
        with self.condition:
            self._has_stopped = True
            self.condition.notify_all()

    def _others(self) -> list[threading.Thread]:
        """Return the threads that have not ended, except this one: an event listener in it may stop the service."""
        with self.condition:
            return [thread for thread in self._threads if thread is not threading.current_thread()]

    def wait_stopped(self) -> None:
        """
        Wait until the service has stopped and its threads have ended.

        Do not wait in a thread that stops the service, or for which that waits: a signal handler or an event listener
        in it may stop the service, too.
        """
        here = threading.current_thread()
        with self.condition:
            if here is self._ends_in or here in self._threads:
                return
            self.condition.wait_for(lambda: self._has_stopped)

    def in_background(self, body: Callable[[], None], what: str) -> None:
        """
        Run *body* in a thread, which the service waits for when it stops. *what* is part of the thread's name.

        While the system allows no more threads, try again every `_AGAIN_S` seconds, until the service has stopped.

        Raises:
            RuntimeError: The interpreter is shutting down and starts no more threads.
        """

        def run() -> None:
            try:
                body()
            finally:
                with self.condition:  # waits until the thread was added below
                    self._threads.discard(thread)

        with self.condition:
            try:
                thread = start_thread(run, f"{self._service}-{what}")
            except RuntimeError:
                if not threading.main_thread().is_alive():
                    raise
                SYSTEM.call_at(SYSTEM.monotonic() + _AGAIN_S, lambda: self._try_again(body, what))
            else:
                self._threads.add(thread)

    def _try_again(self, body: Callable[[], None], what: str) -> None:
        with self.condition:
            if not self._has_stopped:
                self.in_background(body, what)

    def after_fork(self) -> None:
        """In a forked child: enter `stopped`, with a new condition, because a thread that held it is not here."""
        self.condition = threading.Condition()
        self.state = ReplicaState.STOPPED


def shown_state(phase: str, ready: int, replicas: int) -> str:
    """
    Return the state of a service that users see.

    Args:
        phase: `ReplicaSet.state`.
        ready: Number of its replicas that are ready.
        replicas: Number of its replicas, without those that leave.

    Returns:
        *phase*, except for a service that is `ready` with replicas that are not ready: `degraded`, or `unready` if none
        is ready.
    """
    if phase != ReplicaState.READY or ready == replicas:
        return phase
    return "degraded" if ready else ReplicaState.UNREADY
