"""
Lets threads begin late, at random: a pytest plugin that finds code and tests which depend on the order of threads.

    make test-late SEED=1

Many threads sleep a little before they run, and each test process switches threads at another interval. A test that
fails only now usually waits for too little. Some failures are faults of the product that a busy machine shows once in
a million runs.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from random import Random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: How many threads begin late.
_SHARE: Final = 0.4
#: By how many seconds.
_LATE_BY_S: Final = (0.002, 0.01, 0.03, 0.08)
#: Seconds after which a thread must let another one run; Python's default is 0.005.
_SWITCH_S: Final = (0.0001, 0.001, 0.005, 0.03)


def pytest_configure() -> None:
    """Start threads late in this test process, with the seed in `LATE_THREADS`."""
    random = Random(f"{os.environ['LATE_THREADS']} {os.environ.get('PYTEST_XDIST_WORKER', '')}")  # noqa: S311 - no secret
    threading.Thread.start = starting_late(random)  # type: ignore[method-assign]
    sys.setswitchinterval(random.choice(_SWITCH_S))


def starting_late(random: Random) -> Callable[[threading.Thread], None]:
    """Return a `Thread.start` that lets some threads sleep before they run."""
    start = threading.Thread.start

    def start_late(thread: threading.Thread) -> None:
        if random.random() < _SHARE:
            run, seconds = thread.run, random.choice(_LATE_BY_S)

            def run_late() -> None:
                time.sleep(seconds)
                del thread.run  # a reference cycle
                run()

            thread.run = run_late  # type: ignore[method-assign]
        start(thread)

    return start_late
