"""`sage-deploy up`: deploy a file and keep it running."""

from __future__ import annotations

import signal
import threading
from time import monotonic
from typing import TYPE_CHECKING

import click

from sage_plugins.cli.deployment_file import FILE, PROFILE, environment_of
from sage_plugins.cli.output import duration, printable_text, progress, table, write, write_result

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import FrameType

    from sage_plugins.environment import Environment

__all__ = ["command"]


@click.command("up")
@FILE
@PROFILE
@click.option(
    "--once",
    is_flag=True,
    help="Call `process()` once on every service of the file that has it, print what it returns, then stop everything.",
)
def command(file: Path, profile: str | None, *, once: bool) -> None:
    """
    Deploy the services of FILE and keep them running until interrupted.

    Classes are imported from the working directory first, from the folder of FILE second.
    """
    with environment_of(file, profile) as env:
        plan = env.plan()
        write(printable_text(plan))
        started = monotonic()
        names = [service.name for service in plan.services]
        progress(f"starting {', '.join(names) or 'nothing'} ...")
        env.deploy()
        progress(f"all ready after {monotonic() - started:.2f} s")
        if once:
            for name in names:
                _run_job(env, name)
        else:
            _wait_for_signal()
        write()
        write(_status_table(env, names))
        progress("stopping ...")


def _run_job(env: Environment, name: str) -> None:
    """Call `process()` of a service that has it and needs no argument."""
    import inspect

    from sage_plugins.errors import MethodNotFoundError

    process = getattr(env.task(name).composition.factory.service_class, "process", None)
    if process is None or any(
        parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        for parameter in list(inspect.signature(process).parameters.values())[1:]
    ):
        return
    progress(f"{name}.process() ...")
    started = monotonic()
    try:
        answer = env.service(name).call("process")
    except MethodNotFoundError:
        return
    write()
    write(f"{name}.process() answered after {monotonic() - started:.2f} s:")
    if answer is not None:
        write()
        write_result(answer)


def _wait_for_signal() -> None:
    """Hold until SIGINT or SIGTERM; a second SIGINT ends the process in the ordinary way."""
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    progress("running; press Ctrl-C to stop")
    try:
        stop.wait()
    finally:
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])


def _status_table(env: Environment, names: Iterable[str]) -> str:
    rows = []
    for name in names:
        status = env.get_service_status(name)
        metrics, health = status["metrics"], status["health"]
        rows.append(
            (
                name,
                status["state"],
                f"{health['ready']}/{health['replicas']}",
                str(metrics.request_count),
                str(metrics.error_count),
                *(duration(getattr(metrics, share)) for share in ("p50", "p95", "p99")),
                str(metrics.queue_size),
                str(metrics.active_threads),
            )
        )
    head = ("SERVICE", "STATE", "READY", "CALLS", "ERRORS", "P50", "P95", "P99", "QUEUE", "THREADS")
    return table(head, rows, states=("STATE",))
