"""What has become of one service, from before its start until it has stopped."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sage_plugins.threads import start_thread
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ServiceLife", "shown_state"]


class ServiceLife:
    """
    The state of a service, and the threads for which it waits before it has stopped.

    All methods are safe from any thread, except those that are to be called under `condition`.

    Attributes:
        condition: Told of every change; guards the state here and those of the replicas.
        state: `pending`, `starting`, `ready`, `draining` or `stopped`.
        refuses_outsiders: Whether it accepts only calls that come from within other services' calls.
    """

    def __init__(self, service: str) -> None:
        """
        Begin in state `pending`.

        Args:
            service: Name of the service, for its threads.
        """
        self._service = service
        self.condition = threading.Condition()
        self.state = ReplicaState.PENDING
        self.refuses_outsiders = False
        self._threads: set[threading.Thread] = set()  # guarded by condition
        self._has_stopped = False  # guarded by condition

    @property
    def wanted(self) -> bool:
        """Whether replicas are to be there; under `condition`."""
        return self.state in {ReplicaState.STARTING, ReplicaState.READY}

    def begin(self) -> bool:
        """Start; False if that has happened."""
        with self.condition:
            first = self.state is ReplicaState.PENDING
            if first:
                self.state = ReplicaState.STARTING
            return first

    def become_ready(self) -> None:
        """Every replica has been ready; under `condition`."""
        self.state = ReplicaState.READY

    def never_begin(self) -> bool:
        """Have it stopped before it has started; False if it has started."""
        with self.condition:
            never = self.state is ReplicaState.PENDING
            if never:
                self.state = ReplicaState.STOPPED
                self._has_stopped = True
                self.condition.notify_all()
            return never

    def begin_end(self) -> bool:
        """End; False if somebody does that already. Under `condition`."""
        first = self.state is not ReplicaState.DRAINING
        self.state = ReplicaState.DRAINING
        self.condition.notify_all()
        return first

    def end(self) -> None:
        """It has stopped, once its threads have ended."""
        with self.condition:
            self.state = ReplicaState.STOPPED
            self.condition.notify_all()
        while threads := self._others():  # each may have begun another one
            for thread in threads:
                thread.join()
        with self.condition:
            self._has_stopped = True
            self.condition.notify_all()

    def _others(self) -> list[threading.Thread]:
        """The threads that have not ended; not this one, for who is told of an event may stop the service."""
        with self.condition:
            return [thread for thread in self._threads if thread is not threading.current_thread()]

    def wait_stopped(self) -> None:
        """Wait until it has stopped."""
        with self.condition:
            self.condition.wait_for(lambda: self._has_stopped)

    def in_background(self, body: Callable[[], None], what: str) -> None:
        """Run *body* in a thread that is waited for before the service has stopped; *what* is part of its name."""

        def run() -> None:
            try:
                body()
            finally:
                with self.condition:  # not before it was added
                    self._threads.discard(thread)

        with self.condition:
            thread = start_thread(run, f"{self._service}-{what}")
            self._threads.add(thread)

    def after_fork(self) -> None:
        """In a forked child: it has stopped here, and whoever held the condition is not there to release it."""
        self.condition = threading.Condition()
        self.state = ReplicaState.STOPPED


def shown_state(phase: str, ready: int, replicas: int) -> str:
    """
    The state of a service in one word.

    Args:
        phase: `ReplicaSet.state`.
        ready: How many of its replicas are ready.
        replicas: How many it has, without those that leave.

    Returns:
        *phase*; but of a service that is `ready` and has replicas that are not, `degraded`, or `unready` if none is.
    """
    if phase != ReplicaState.READY or ready == replicas:
        return phase
    return "degraded" if ready else ReplicaState.UNREADY
