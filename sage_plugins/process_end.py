"""
The environments of this process that have services: what becomes of them when it ends, and in its forked children.

At its end the interpreter closes those that nobody closed. In a child there are none of the threads of the parent, so
there every environment refuses what needs them.
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

#: Seconds that the interpreter waits at its exit for an environment that nobody closed.
_AT_EXIT_S: Final = 2.0


class LiveEnvironment(Protocol):
    """What is closed at the end, and told of a fork."""

    id: str

    def service(self, name: str) -> Any:
        """A handle to one of its services."""

    def close(self, drain_timeout: float | None = None) -> None:
        """Stop every service; returns when that is done."""

    def after_fork(self) -> None:
        """In a forked child: refuse everything that needs services."""


_live: weakref.WeakSet[LiveEnvironment] = weakref.WeakSet()  # single steps, which need no lock


def watch_over(environment: LiveEnvironment) -> None:
    """From now on *environment* has services. From any thread; a second time does nothing."""
    _live.add(environment)


def find(id: str) -> LiveEnvironment | None:
    """The environment of that ID, if it is one of this process and has services. From any thread."""
    return next((environment for environment in tuple(_live) if environment.id == id), None)


def forget(environment: LiveEnvironment) -> None:
    """The environment was closed; after the last one our idle threads end. From any thread."""
    _live.discard(environment)
    rest()


def rest() -> None:
    """End our threads that have nothing to do, if no environment has services. From any thread."""
    if not _live:
        SYSTEM.rest()
        CALLBACKS.rest()
        HOOKS.rest()


def forked_error(name: str) -> SageDeployError:
    """What a call of the service *name* ends with in a forked child."""
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
    At the end of the interpreter close environments before all else that is to be done then, as far as it is known now.

    What a target has imported to start replicas may end itself at exit, while it is needed to stop them. From any
    thread.
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
