"""Finds what a run has left behind once everything is closed."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from sage_deploy_testing.chaos.run_log import is_alive, machine
from sage_deploy_testing.tools.leak_guard import GRACE_S, Resources
from sage_plugins.clock import SYSTEM
from sage_plugins.threads import CALLBACKS, HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sage_deploy_testing.chaos.run_log import Up

__all__ = ["Leaks"]

#: Threads of Ray's Python side, which outlive its shutdown.
_OF_RAY: Final = ("PythonGCThread", "ray_")


class Leaks:
    """Takes stock before a run, and compares after it."""

    def __init__(self) -> None:
        """Take stock."""
        self._before = Resources.now()

    def left(self, replicas: Iterable[Up]) -> tuple[list[str], list[str]]:
        """
        Return what is new since the start of the run, after some seconds to end by itself, and what was not checked.

        Args:
            replicas: All replicas of the run. Their processes must have ended.
        """
        replicas = list(replicas)
        gc.collect()
        deadline, pause = time.monotonic() + GRACE_S, threading.Event()
        while (found := self._found(replicas)) and time.monotonic() < deadline:
            SYSTEM.rest()
            CALLBACKS.rest()
            HOOKS.rest()
            pause.wait(0.05)
        unchecked = []
        if _ray_was_here():
            unchecked.append("file descriptors: Ray keeps some of its own in this process")
        if not machine():
            unchecked.append("processes of replicas: this system does not list them")
        elif any(each.machine != machine() for each in replicas):
            unchecked.append("processes of replicas on other machines")
        return found, unchecked

    def _found(self, replicas: Iterable[Up]) -> list[str]:
        new = Resources.now() - self._before
        if _ray_was_here():
            threads = frozenset(each for each in new.threads if not each.name.startswith(_OF_RAY))
            new = new._replace(files=frozenset(), threads=threads)
        new = new._replace(elsewhere=frozenset())
        processes = [
            f"process {each.pid}, a replica of {each.service}"
            for each in replicas
            if is_alive(each) and each.pid not in new.children and each.pid != os.getpid()
        ]
        return [*new.describe(), *processes]


def _ray_was_here() -> bool:
    return "ray" in sys.modules
