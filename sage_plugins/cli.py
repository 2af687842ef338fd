"""
The command `sage-deploy`.

Data goes to stdout, progress to stderr. Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import click

from sage_plugins import __version__
from sage_plugins.errors import ConfigError, MethodNotFoundError, PlanError, PluginError, SageDeployError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import FrameType

    from sage_plugins.environment import Environment

__all__ = ["main"]

_FAILED: Final = 1
_BAD_INPUT: Final = 2

_FILE = click.argument("file", type=click.Path(path_type=Path))
_PROFILE = click.option("--profile", help="Which of the file's `profiles` to apply.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sage-deploy")
def commands() -> None:
    """Run ordinary Python classes as services, as a YAML file says."""


@commands.command()
@_FILE
@_PROFILE
@click.option(
    "--once",
    is_flag=True,
    help="Call `process()` once on every service of the file that has it, print what it returns, then stop everything.",
)
def up(file: Path, profile: str | None, *, once: bool) -> None:
    """
    Deploy the services of FILE and keep them running until interrupted.

    Classes are imported from the working directory first, from the folder of FILE second.
    """
    with _environment(file, profile) as env:
        plan = env.plan()
        click.echo(plan)
        started = monotonic()
        names = [service.name for service in plan.services]
        _progress(f"starting {', '.join(names) or 'nothing'} ...")
        env.deploy()
        _progress(f"all ready after {monotonic() - started:.2f} s")
        if once:
            for name in names:
                _run_job(env, name)
        else:
            _wait_for_signal()
        click.echo()
        click.echo(_status_table(env, names))
        _progress("stopping ...")


@commands.command()
@_FILE
@_PROFILE
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(file: Path, profile: str | None, *, as_json: bool) -> None:
    """Show what `up FILE` would do and which plugin decides what; starts nothing."""
    with _environment(file, profile) as env:
        found = env.plan()
        click.echo(found.to_json() if as_json else found)


@commands.group()
def plugins() -> None:
    """Look at the installed plugins."""


@plugins.command("list")
def list_plugins() -> None:
    """List what the installed plugins offer, and those that did not load with the reason."""
    from sage_plugins.plugins import Registry

    registry = Registry.discover()
    rows = [
        (kind, id, entry.plugin.source, entry.registration.summary)
        for (kind, id), entry in sorted(registry.entries().items())
    ]
    click.echo(_table(("KIND", "ID", "FROM", "WHAT"), rows))
    for failure in registry.failures:
        click.echo(f"! {failure}")
    if registry.failures:
        sys.exit(_FAILED)


def _environment(file: Path, profile: str | None) -> Environment:
    from sage_plugins.environment import Environment

    for folder in (file.resolve().parent, Path.cwd()):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    env = Environment(file.stem)
    env.load_service_deployment_config(file, profile=profile)
    return env


def _run_job(env: Environment, name: str) -> None:
    """Call `process()` of a service that has it and needs no argument."""
    import inspect

    process = getattr(env.task(name).composition.factory.service_class, "process", None)
    if process is None or any(
        parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        for parameter in list(inspect.signature(process).parameters.values())[1:]
    ):
        return
    _progress(f"{name}.process() ...")
    started = monotonic()
    try:
        answer = env.service(name).call("process")
    except MethodNotFoundError:
        return
    click.echo()
    click.echo(f"{name}.process() answered after {monotonic() - started:.2f} s:")
    if answer is not None:
        click.echo()
        click.echo(answer)


def _wait_for_signal() -> None:
    """Hold until SIGINT or SIGTERM; a second SIGINT ends the process in the ordinary way."""
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    _progress("running; press Ctrl-C to stop")
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
                *(_duration(getattr(metrics, share)) for share in ("p50", "p95", "p99")),
                str(metrics.queue_size),
                str(metrics.active_threads),
            )
        )
    head = ("SERVICE", "STATE", "READY", "CALLS", "ERRORS", "P50", "P95", "P99", "QUEUE", "THREADS")
    return _table(head, rows)


def _duration(seconds: float) -> str:
    """`"412 us"`, `"3.1 ms"` or `"2.5 s"`; `"-"` for nothing measured."""
    if seconds == 0:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds * 1e6:.0f} us"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )
    return "\n".join(lines)


def _progress(text: str) -> None:
    click.echo(text, err=True)


def main(arguments: Sequence[str] | None = None) -> Any:
    """
    Run the command line.

    Args:
        arguments: Without the program's name; those of the process by default.
    """
    try:
        commands.main(
            args=None if arguments is None else list(arguments), prog_name="sage-deploy", standalone_mode=False
        )
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.Abort:
        _progress("interrupted")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (ConfigError, PlanError, PluginError) as error:
        _progress(str(error))
        sys.exit(_BAD_INPUT)
    except SageDeployError as error:
        _progress(f"{type(error).__name__}: {error}")
        sys.exit(_FAILED)
