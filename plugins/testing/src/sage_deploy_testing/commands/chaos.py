"""The command `sage-deploy chaos`: runs accidents on services, and judges their calls."""

from __future__ import annotations

import random
import signal
import sys
import threading
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from sage_deploy_cli.exit_codes import ExitCode
from sage_deploy_cli.output import printable, progress, write, write_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from types import FrameType

    from sage_deploy_testing.chaos.history import Event
    from sage_deploy_testing.chaos.run import Setting

__all__ = ["command"]

#: Seeds are drawn below this, so that they are short.
_SEEDS: Final = 1_000_000
_POSITIVE: Final = click.FloatRange(min=0, min_open=True)


@click.command("chaos")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--minutes", type=_POSITIVE, default=1.0, show_default=True, help="Minutes of accidents.")
@click.option(
    "--pairs",
    type=_POSITIVE,
    metavar="SECONDS",
    help="Instead of random accidents, run each pair once, both at the same time, with this time for each.",
)
@click.option("--profile", help="Apply this profile of the file.")
@click.option("--service", "services", multiple=True, metavar="NAME", help="Only this service; may be repeated.")
@click.option("--actions", metavar="A,B,...", help="Only these accidents; default: all possible ones.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of callers and accidents; default: a new one each time.")
@click.option("--rate", type=_POSITIVE, default=100.0, show_default=True, help="Calls a second, all callers together.")
@click.option("--every", type=_POSITIVE, default=1.0, show_default=True, help="Mean seconds between accidents.")
@click.option(
    "--kill-every",
    type=_POSITIVE,
    default=5.0,
    show_default=True,
    help="Minimum seconds between ending two replicas of a service.",
)
@click.option(
    "--in-flight",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Maximum calls at once; further calls are skipped.",
)
@click.option(
    "--slack",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Seconds after its deadline by which a call must end.",
)
@click.option(
    "--recovery",
    type=_POSITIVE,
    default=90.0,
    show_default=True,
    help="Seconds after the last accident by which all services must be ready.",
)
@click.option(
    "--history",
    "history_file",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write the history, one JSON object a line.",
)
@click.option(
    "--check",
    "checked",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="HISTORY",
    help="Run nothing; judge this history.",
)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of the verdict.",
)
def command(file: Path | None, history_file: Path | None, checked: Path | None, form: str, **options: Any) -> None:
    """
    Deploy the services of FILE, call them while accidents happen, and judge every call.

    Your configuration is used, but a probe replaces each class, so none of your code runs. The exit code is 1 if a call
    was lost, ran twice, ended late or with an error that says nothing, if something was left behind, or if a service
    did not recover. Ctrl-C ends the accidents; the verdict then covers what has happened so far.
    """
    if (file is None) == (checked is None):
        raise click.UsageError("give a FILE to deploy, or --check HISTORY to judge")
    _refuse_beside_pairs()
    # These imports take long, and `chaos --help` does not need them.
    from sage_deploy_testing.chaos.verdict import Verdict

    if checked is not None:
        try:
            verdict = Verdict.of(_read(checked))
        except KeyError as error:
            raise click.BadParameter(f"{checked}: an event lacks {error}", param_hint="--check") from error
    else:
        assert file is not None
        if history_file is not None:
            _write((), history_file)  # fail now rather than after the run
        events = _run(_setting(file, **options))
        if history_file is not None:
            _write(events, history_file)
            progress(f"wrote {history_file}")
        verdict = Verdict.of(events)
    if form == "json":
        write_json(verdict.as_dict())
    else:
        for line in verdict.lines():
            write(printable(line))
    if not verdict.is_clean:
        sys.exit(ExitCode.FAILED)


def _refuse_beside_pairs() -> None:
    """Refuse options about random accidents together with `--pairs`."""
    context = click.get_current_context()
    if context.params["pairs"] is None:
        return
    for name in ("minutes", "every", "kill_every"):
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--pairs says how long each pair has: leave out --{name.replace('_', '-')}")


def _read(file: Path) -> list[Event]:
    from sage_deploy_testing.chaos.history import read

    try:
        return read(file)
    except (OSError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="--check") from error


def _write(events: Sequence[Event], file: Path) -> None:
    from sage_deploy_testing.chaos.history import write as write_history

    try:
        write_history(events, file)
    except OSError as error:
        raise click.BadParameter(f"{file} cannot be written: {error.strerror}", param_hint="--history") from error


def _run(setting: Setting) -> list[Event]:
    from sage_deploy_testing.chaos.run import run

    over = threading.Event()
    # A runtime's own output is no data, for example what Ray prints about killed workers.
    with _ends(over), redirect_stdout(sys.stderr):
        return run(setting, over=over, progress=progress)


@contextmanager
def _ends(over: threading.Event) -> Iterator[None]:
    """Set *over* at the first signal. Raise KeyboardInterrupt at the second one."""

    def end(_number: int, _frame: FrameType | None) -> None:
        if over.is_set():
            raise KeyboardInterrupt
        over.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _setting(  # noqa: PLR0913 - the options
    file: Path,
    *,
    minutes: float,
    pairs: float | None,
    profile: str | None,
    services: Collection[str],
    actions: str | None,
    seed: int | None,
    rate: float,
    every: float,
    kill_every: float,
    in_flight: int,
    slack: float,
    recovery: float,
) -> Setting:
    from sage_deploy_testing.chaos.actions import ACTIONS
    from sage_deploy_testing.chaos.run import Setting
    from sage_plugins.plugins.registry import Registry

    registry = Registry.discover()
    source = registry.find("file reader", "yaml").registration.create(None).read(file, profile=profile)
    configs = {name: entry.config() for name, entry in source.services.items() if entry.class_path is not None}
    if not configs:
        raise click.UsageError(f"{file} has no service with a class")
    extensions = registry.ids("extension")
    return Setting(
        services={name: configs[name] for name in _chosen(services, configs, "service", "--service")},
        seconds=60.0 * minutes if pairs is None else pairs,
        rate=rate,
        seed=random.randrange(_SEEDS) if seed is None else seed,  # noqa: S311 - not for secrets
        actions=_chosen(actions.split(",") if actions else (), ACTIONS, "accident", "--actions"),
        every=every,
        kill_every=kill_every,
        most=in_flight,
        slack=slack,
        recovery=recovery,
        options={id: options for id, options in source.options.items() if id not in extensions},
        pairs=pairs is not None,
        source=str(file),
    )


def _chosen(asked: Collection[str], known: Collection[str], what: str, option: str) -> list[str]:
    """Return the names that are asked for, or all if there are none."""
    from sage_plugins.texts import did_you_mean

    for name in asked:
        if name not in known:
            near = did_you_mean(name, list(known))
            hint = f"did you mean {near!r}?" if near else f"there are {', '.join(known)}"
            raise click.BadParameter(f"there is no {what} {name!r}; {hint}", param_hint=option)
    return list(dict.fromkeys(asked)) or list(known)
