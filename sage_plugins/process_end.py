"""
Closes environments when the interpreter exits, and disables them in forked children.

At exit, environments with services that are still open are closed. A forked child has none of the parent's threads, so
every environment there refuses calls and deployments.
"""

from __future__ import annotations

import atexit
import os
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

from sage_plugins.call import call, deadlock
from sage_plugins.clock import SYSTEM
from sage_plugins.errors import ForkedRuntimeError
from sage_plugins.threads import CALLBACKS, HOOKS

if TYPE_CHECKING:
    from sage_plugins.errors import SageDeployError

__all__ = ["LiveEnvironment", "close_first", "find", "forget", "forked_error", "rest", "watch_over"]

#: Seconds that the interpreter waits at exit for the calls of each environment that is still open.
_AT_EXIT_S: Final = 2.0


class LiveEnvironment(Protocol):
    """The part of an environment that this module needs."""

    id: str

    def service(self, name: str) -> Any:
        """Return a handle to one of its services."""

    def close(self, drain_timeout: float | None = None) -> None:
        """Stop every service; return when that is done."""

    def after_fork(self) -> None:
        """Refuse everything that needs services, because this is a forked child."""


_live: weakref.WeakSet[LiveEnvironment] = weakref.WeakSet()  # without a lock, because each use is a single step


def watch_over(environment: LiveEnvironment) -> None:
    """Register an environment that has services now. Idempotent; thread-safe."""
    _live.add(environment)


def find(id: str) -> LiveEnvironment | None:
    """Return the environment with that ID, if it is in this process and has services. Thread-safe."""
    return next((environment for environment in tuple(_live) if environment.id == id), None)


def forget(environment: LiveEnvironment) -> None:
    """Remove a closed environment. After the last one, end the core's idle threads. Thread-safe."""
    _live.discard(environment)
    rest()


def rest() -> None:
    """End the core's idle threads if no environment has services. Thread-safe."""
    if not _live:
        SYSTEM.rest()
        CALLBACKS.rest()
        HOOKS.rest()


def forked_error(name: str) -> SageDeployError:
    """Return the error for calls of the service *name* in a forked child."""
    return ForkedRuntimeError(
        f"service '{name}' runs in the process that forked this one: threads do not survive a fork. Make an "
        "Environment and deploy in the child, or fork before deploying"
    )


@atexit.register
def _close_all() -> None:
    for environment in list(_live):
        environment.close(drain_timeout=_AT_EXIT_S)


def close_first() -> None:
    """
    Make environments close before all exit handlers that are registered so far. Thread-safe.

    Called each time replicas start. A library that a target has imported by then may shut itself down at exit, and
    stopping the replicas needs that library.
    """
    atexit.unregister(_close_all)
    atexit.register(_close_all)


def _after_fork() -> None:
    SYSTEM.after_fork()
    CALLBACKS.after_fork()
    HOOKS.after_fork()
    call.after_fork()
    deadlock.after_fork()
    for environment in list(_live):
        environment.after_fork()
    _live.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
