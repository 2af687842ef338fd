"""
A caller in its own process, which is killed in the middle of its calls.

Run as a program, it reads a handle and the number of its first call from stdin, and makes the calls. It reports the
first answer on stdout, then waits until it is killed.
"""

from __future__ import annotations

import pickle
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, wait
from typing import TYPE_CHECKING, Final

from sage_plugins.errors import CallError, SageDeployError, line_of

if TYPE_CHECKING:
    import threading

    from sage_plugins.routing.handles.handle import ServiceHandle

__all__ = ["CALLS", "call_and_die"]

#: The most calls of a killed caller, all at the same time.
CALLS: Final = 40
#: Seconds until it must have connected. On a busy machine a runtime needs that long.
_STARTS_S: Final = 60.0
_LOOK_S: Final = 0.2
_ANSWERED: Final = "answered"


def call_and_die(handle: ServiceHandle, first: int, lives: float, over: threading.Event) -> bool:
    """
    Start a process that calls `work` with the numbers from *first* on, and kill it.

    Args:
        handle: A handle that can be pickled.
        first: Number of the first of `CALLS` calls.
        lives: Seconds from its first answer until it is killed.
        over: Kills it early when set.

    Returns:
        Whether it got an answer in time.

    Raises:
        CallError: It cannot call the service.
    """
    with subprocess.Popen(  # noqa: S603 - this module
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C must not reach it
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(pickle.dumps((handle, first)))
            process.stdin.close()
            until = time.monotonic() + _STARTS_S
            while not select.select([process.stdout], [], [], _LOOK_S)[0]:
                if over.is_set() or time.monotonic() > until:
                    return False
            said = process.stdout.readline().decode(errors="replace").strip()
            if said != _ANSWERED:
                raise CallError(f"a caller in another process cannot call the service: {said}")
            over.wait(lives)
        finally:
            process.send_signal(signal.SIGKILL)
    return True


def main() -> None:
    """Run as the caller."""
    handle, first = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this one
    try:
        calls = [handle.submit("work", number, 0.05) for number in range(first, first + CALLS)]
    except SageDeployError as error:
        _say(line_of(error))
    else:
        wait(calls, return_when=FIRST_COMPLETED)
        _say(_ANSWERED)
    signal.pause()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
