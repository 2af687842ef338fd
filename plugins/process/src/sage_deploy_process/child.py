"""Starts and ends a child process, and says how it ended."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sage_deploy_process import lifeline
from sage_plugins.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sage_deploy_process.lifeline import Settings

__all__ = ["Child", "start_error"]

#: Seconds to wait until a process has ended: one that already ends by itself, and one that was killed.
_GRACE_S: Final = 0.2
_KILL_TIMEOUT_S: Final = 5.0

#: A forked copy of this process closes its copies of these children's lifelines, so that it keeps no child alive.
_CHILDREN: Final[weakref.WeakSet[Child]] = weakref.WeakSet()


class Child:
    """
    A child process in its own process group, so Ctrl-C in a terminal reaches only this process.

    The child ends with this process, however this process ends. Processes in the child's group end with the child.
    Thread-safe.

    Attributes:
        pid: Its process ID.
    """

    def __init__(
        self,
        module: str,
        name: str,
        *,
        descriptors: Sequence[int],
        settings: Settings,
        environment: Mapping[str, str],
    ) -> None:
        """
        Start the child: `python -m MODULE DESCRIPTORS... LIFELINE NAME`.

        Args:
            module: Module that the child runs.
            name: Its replica's name, for process lists and messages.
            descriptors: File descriptors that it inherits.
            settings: Settings that it reads from its lifeline.
            environment: Its environment variables.

        Raises:
            DeployError: The child cannot be started.
        """
        self._lock = threading.Lock()
        self._name = name
        try:
            child_end, self._lifeline = os.pipe()
        except OSError as error:
            raise start_error(name, error) from error
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and a module of this package
                [_interpreter(name), *_flags(), "-P", "-m", module, *map(str, (*descriptors, child_end)), name],
                stdin=subprocess.DEVNULL,
                pass_fds=[*descriptors, child_end],
                process_group=0,
                env=environment,
            )
            os.close(child_end)
        except BaseException as error:
            os.close(child_end)
            os.close(self._lifeline)
            if isinstance(error, OSError):
                raise start_error(name, error) from error
            raise
        self.pid = self._process.pid
        _CHILDREN.add(self)
        with suppress(OSError):  # the child has ended; the wait for its answer will notice
            lifeline.write(self._lifeline, settings)

    def end(self) -> str:
        """Kill the child and its process group, and return how it ended. Idempotent."""
        return self._end(0.0)

    def end_after_grace(self) -> str:
        """As `end`, for a child that may be ending by itself: give it a moment before the kill."""
        return self._end(_GRACE_S)

    def _end(self, grace_s: float) -> str:
        with self._lock:
            process = self._process
            if process.returncode is None:
                _wait_unreaped(process.pid, grace_s)
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the ID still belongs to it
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_KILL_TIMEOUT_S)
                self._close_lifeline()
        return _in_words(process.returncode)

    def _close_lifeline(self) -> None:
        _CHILDREN.discard(self)
        descriptor, self._lifeline = self._lifeline, -1
        if descriptor != -1:
            os.close(descriptor)


def _wait_unreaped(pid: int, timeout_s: float) -> None:
    """Wait until a process has ended, at most *timeout_s* seconds. Does not reap it, so its ID stays taken."""
    if not timeout_s or not hasattr(os, "pidfd_open"):
        return
    with suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            select.select([descriptor], [], [], timeout_s)
        finally:
            os.close(descriptor)


def _in_words(code: int | None) -> str:
    if code is None:
        return "its process cannot be ended: the kernel waits for a device"
    if code >= 0:
        return f"its process ended with exit status {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"its process was ended by {name}"


def _interpreter(name: str) -> str:
    if not sys.executable:
        msg = f"replica {name} cannot be started: sys.executable does not say which interpreter runs this program"
        raise DeployError(msg, replica=name)
    return sys.executable


def _flags() -> list[str]:
    """Return this interpreter's options, such as `-O` and `-X utf8`, as `multiprocessing` does."""
    return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined,no-any-return] # noqa: SLF001 - see above


def start_error(name: str, error: OSError) -> DeployError:
    """Return the deployment's error for an operating system that refuses a process or its resources."""
    reason = error.strerror or str(error)
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        whose = (
            f"this process may have {most} files open" if error.errno == errno.EMFILE else "so may the whole machine"
        )
        reason = f"{reason}: {whose}, and each replica takes some. Raise the limit (ulimit -n), or have fewer replicas"
    elif error.errno in {errno.EAGAIN, errno.ENOMEM}:
        reason = f"{reason}: the machine, or the limit of processes (ulimit -u), has no room for another one"
    return DeployError(f"replica {name} cannot be started: {reason}", replica=name)


def _after_fork() -> None:
    for child in tuple(_CHILDREN):
        child._close_lifeline()  # noqa: SLF001 - this copy must not hold the lifeline of its parent's child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
