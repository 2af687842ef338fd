"""
Calls of one replica on target `process`, against tasks of one Celery worker process with Redis, interleaved.

Redis is the broker and keeps the results. Needs the program `redis-server`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rounds import interleave, per_call
from table import goal, rounds_asked, show

from sage_plugins import Environment, ServiceDeploymentConfig

if TYPE_CHECKING:
    from collections.abc import Callable

#: Number of calls submitted at once.
_AT_ONCE = 500


class Service:
    """The same function as a service."""

    def echo(self, value: int) -> int:
        """Return *value*."""
        return value


def _start(stack: ExitStack, *command: str, folder: str) -> None:
    program = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True)
    stack.callback(program.wait)
    stack.callback(os.killpg, program.pid, signal.SIGKILL)


def _wait_for(port: int) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def _celery(stack: ExitStack, redis: str) -> Callable[[int], Callable[[], object]]:
    """Start Redis and a worker; return a function that sends a task and returns the function that waits for it."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    _start(stack, redis, "--port", str(port), "--bind", "127.0.0.1", "--save", "", folder=folder)
    _wait_for(port)
    os.environ["BROKER"] = f"redis://127.0.0.1:{port}/0"
    worker = ("--workdir", str(Path(__file__).parent), "worker", "--concurrency", "1", "--loglevel", "ERROR")
    _start(stack, sys.executable, "-m", "celery", "--app", "celery_worker", *worker, folder=folder)
    from celery_worker import echo

    echo.delay(0).get(timeout=60)
    return lambda value: partial(echo.delay(value).get, timeout=60)


def _alone(send: Callable[[int], Callable[[], object]]) -> float:
    def call() -> object:
        wait = send(1)
        return wait()

    return per_call(call, 100)


def _at_once(send: Callable[[int], Callable[[], object]]) -> float:
    start = time.perf_counter()
    for wait in [send(number) for number in range(_AT_ONCE)]:
        wait()
    return _AT_ONCE / (time.perf_counter() - start)


def main() -> None:
    """Measure, and print the ratios."""
    rounds = rounds_asked(__doc__, 7)
    redis = shutil.which("redis-server")
    if redis is None:
        sys.exit("redis-server is not installed")
    with ExitStack() as stack:
        task = _celery(stack, redis)
        env = stack.enter_context(Environment("benchmark"))
        config = ServiceDeploymentConfig(target="process", queue_size=100_000)
        env.register_service_with_config("bench", Service, deployment_config=config)
        service = env.service("bench")
        service.echo(0)

        senders: dict[str, Callable[[int], Callable[[], object]]] = {
            "Celery": task,
            "ours": lambda value: service.submit("echo", value).result,
        }
        measured = interleave({name: partial(_alone, send) for name, send in senders.items()}, rounds)
        show("one call at a time, microseconds", measured)
        goal(measured, "Celery", "ours")
        measured = interleave({name: partial(_at_once, send) for name, send in senders.items()}, rounds)
        show(f"{_AT_ONCE} calls at once, calls a second", measured, 1)
        goal(measured, "ours", "Celery")


if __name__ == "__main__":
    main()
