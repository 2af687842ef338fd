"""`sage-deploy up`: deploy a file, or a plan of one, and keep it running."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import click

from sage_deploy_cli.environment_of import FILE, PROFILE, environment_of, load
from sage_deploy_cli.exit_codes import ExitCode
from sage_deploy_cli.output import complain, duration, printable, progress, table, write, write_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from sage_deploy_cli.runs.plan_file import SavedPlan
    from sage_plugins.environment.environment import Environment
    from sage_plugins.errors import DeployError
    from sage_plugins.planning.plan import DeploymentPlan
    from sage_plugins.values import Event

    Note = Callable[[], None]

__all__ = ["command"]

#: Seconds from one look at a watched file to the next.
_LOOK_S: Final = 1.0
#: The levels from which on logs can be shown.
_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
#: Signals that end the command as Ctrl-C does: of whoever supervises it, and of a terminal that is closed.
_ENDING: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@click.command("up")
@FILE
@PROFILE
@click.option(
    "--once",
    is_flag=True,
    help="Call `process()` once on each service that has it, print the results, then stop everything.",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait until every replica passes check_health() and check_ready(). Exit with 4 if one does not within the "
    "startup_timeout of its service.",
)
@click.option(
    "--watch",
    is_flag=True,
    help="Check FILE every second and apply its changes. Changed classes need a new process.",
)
@click.option(
    "--another",
    is_flag=True,
    help="Start a second copy, although another process of yours already runs FILE.",
)
@click.option(
    "--log-level",
    type=click.Choice(_LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
    help="Lowest level of the services' logs to show.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of logs: text, or one JSON object a line.",
)
@click.option("--http", metavar="[HOST:]PORT", help="Also answer calls over HTTP at this address.")
@click.option("-v", "--verbose", is_flag=True, help="Show the whole plan, as `plan -v` does.")
def command(  # noqa: PLR0913 - a parameter for each option
    file: Path,
    profile: str | None,
    *,
    once: bool,
    wait: bool,
    watch: bool,
    another: bool,
    log_level: str,
    log_format: str,
    http: str | None,
    verbose: bool,
) -> None:
    """
    Deploy the services of FILE and run them until interrupted.

    FILE is a deployment file, or a plan written by `plan --out`. A plan is executed only if it would still do the same.
    Classes are imported from the working directory first, then from the folder of the deployment file.
    """
    if once and watch:
        raise click.UsageError("--once ends after the job: there is nothing to watch")
    # The library is imported in the functions that need it: `up --help` does without.
    from sage_deploy_cli.log_lines import log_lines
    from sage_deploy_cli.runs.plan_file import read_plan
    from sage_deploy_cli.show_plan import show_plan

    saved = read_plan(file)
    if saved is not None:
        if profile is not None:
            raise click.UsageError("--profile: the plan has chosen its profile already")
        file, profile = saved.file, saved.profile
    # Before it is read: what is changed from then on, while services start for instance, is still to be applied.
    seen = _fingerprint(file) if watch else None
    if saved is None and not another:
        _refuse_second(file)
    with (
        _interrupted_by_signals(),
        log_lines(log_level, log_format),
        _stopped_at_the_end(environment_of(file, profile, on_event=_report, options=_server(http, once=once))) as env,
    ):
        plan = env.plan() if saved is None else _planned(saved, env, another=another)
        show_plan(plan, verbose=verbose)
        _refuse_unplaced(plan)
        with _recorded(file, profile, env, another=another) as note:
            _serve(env, plan, file, profile, note, once=once, wait=wait, seen=seen)


def _server(http: str | None, *, once: bool) -> dict[str, dict[str, Any]]:
    """The options that have this process reached from others, if what does that is installed."""
    from sage_plugins.plugins.registry import Registry

    if "server" not in Registry.discover().ids("extension"):
        if http is None:
            return {}
        raise click.UsageError("--http is brought by sage-deploy-server: pip install 'sage-deploy[server]'")
    given = {} if http is None else {"http": http}
    if once:  # nobody has the time to log in
        return {"server": given} if given else {}
    return {"server": {**given, "login_link": True}}


class _SecondSignal(KeyboardInterrupt):
    """Nobody wants to wait for calls any more."""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _interrupt_again(_number: int, _frame: FrameType | None) -> None:
    raise _SecondSignal


def _ending() -> list[int]:
    """The signals that end the command, but for Ctrl-C; one that is ignored stays so."""
    return [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def _stopped_at_the_end(env: Environment) -> Iterator[Environment]:
    """Close *env* at the end of the block, and wait for its calls; a signal meanwhile has it wait no more."""
    try:
        with env:
            try:
                yield env
            except _SecondSignal:  # it came before the end of the block
                env.close(drain_timeout=0)
                raise
    except KeyboardInterrupt:
        env.close(drain_timeout=0)
        raise


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Have signals interrupt as Ctrl-C does, so that what runs is stopped in order."""
    before = {number: signal.signal(number, _interrupt) for number in _ending()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve(  # noqa: PLR0913 - what the command was asked for
    env: Environment,
    plan: DeploymentPlan,
    file: Path,
    profile: str | None,
    note: Note,
    *,
    once: bool,
    wait: bool,
    seen: tuple[int, ...] | None,
) -> None:
    names = [service.name for service in plan.services]
    _deploy(env, names, wait=wait)
    note()
    if once:
        if not [name for name in names if _run_job(env, name)]:
            progress("no service has a method process() without arguments: --once has nothing to call")
        _show_logs(env)
    else:
        _say_who_can_call(env, names, reached="server" in env.registry.ids("extension"))
        _run(env, file, profile, note, seen)
    write()
    write(_status_table(env))
    progress("stopping ...")


def _say_who_can_call(env: Environment, names: list[str], *, reached: bool) -> None:
    """Tell who has started services, and now wants to call them, what can."""
    if reached and names:
        progress("in another terminal: sage-deploy status | call SERVICE.METHOD | logs -f | scale | apply | down")
    targets = {name: env.task(name).composition.target.registration for name in names}
    here = [name for name in names if "reachable" not in targets[name].capabilities]
    beyond = [name for name in names if name not in here]
    if here and not reached:
        progress(f"only services of this process can call {', '.join(here)}")
    if beyond:
        progress(f"services of other processes on the same cluster can call {', '.join(beyond)}, too")


def _second(pid: int, file: Path) -> DeployError:
    from sage_plugins.errors import DeployError

    return DeployError(
        f"process {pid} runs {file} already; stop it first, have it apply changes with --watch, or start a second copy "
        "beside it with --another"
    )


def _refuse_second(file: Path) -> None:
    """Before anything is read or imported, refuse a second copy of what another process of this user runs."""
    from sage_deploy_cli.runs.run_record import find_run

    run = find_run(file)
    if run is not None:
        raise _second(run.pid, file)


def _planned(saved: SavedPlan, env: Environment, *, another: bool) -> DeploymentPlan:
    """The plan of what is configured now, if it is still the one that was saved."""
    from sage_deploy_cli.runs.plan_file import check_fresh
    from sage_deploy_cli.runs.run_record import find_run
    from sage_plugins.errors import DeployError

    run = None if another else find_run(saved.file)
    plan = env.plan(None if run is None else run.services)
    check_fresh(saved, plan)
    if run is not None:
        raise DeployError(
            f"the plan is of what process {run.pid} runs, and only that process can change it: run it with --watch, "
            "or stop it and plan again"
        )
    return plan


def _report(event: Event) -> None:
    """Say of every replica what becomes of it, who asks for a change, and how far an update is."""
    if event.kind == "change_requested":
        progress(f"{event.service or 'all services'}: {printable(event.reason)}")
    elif event.kind.startswith("roll"):
        progress(f"{event.service} {event.kind.replace('_', ' ')}: {printable(event.reason)}")
    elif event.replica is not None:
        state = event.kind.removeprefix("replica_")
        progress(f"{event.replica} {state}" + (f": {printable(event.reason)}" if event.reason else ""))


@contextmanager
def _recorded(file: Path, profile: str | None, env: Environment, *, another: bool) -> Iterator[Note]:
    """
    Note for plans made beside this process what it runs; services run all the same if that cannot be noted.

    Raises:
        DeployError: Another process runs the file, and no second copy is wanted.
    """
    from sage_deploy_cli.runs.run_record import RunRecord, find_run

    try:
        record = RunRecord.take(file, profile)
    except OSError as error:
        progress(f"what runs here cannot be noted, so `plan` will not know of it: {error}")
        record = None
    else:
        run = find_run(file) if record is None else None
        if run is not None and not another:  # it was started a moment ago
            raise _second(run.pid, file)
        if run is not None:
            progress(f"process {run.pid} runs {file} already; its services stay as they are, these run beside them")

    def note() -> None:
        if record is not None:
            try:
                record.note(env.running())
            except OSError as error:
                progress(f"what runs here cannot be noted: {error}")

    try:
        yield note
    finally:
        if record is not None:
            record.close()


def _refuse_unplaced(plan: DeploymentPlan) -> None:
    if plan.unplaced:
        from sage_plugins.errors import DeployError

        names = ", ".join(replica.id for replica in plan.unplaced)
        raise DeployError(f"there is no place for {names}; nothing was started")


def _deploy(env: Environment, names: list[str], *, wait: bool) -> None:
    started = monotonic()
    progress(f"starting {', '.join(names) or 'nothing'} ...")
    env.deploy()
    progress(f"all ready after {monotonic() - started:.2f} s")
    if wait:
        from sage_plugins.errors import DeployError

        try:
            for name in names:
                env.task(name).wait_healthy()
        except DeployError as error:
            complain(error)
            sys.exit(ExitCode.UNHEALTHY)
        progress(f"all healthy after {monotonic() - started:.2f} s")


def _run(env: Environment, file: Path, profile: str | None, note: Note, seen: tuple[int, ...] | None) -> None:
    """
    Hold until a signal ends the command; a second one interrupts it.

    A handler that the services' code has set for such a signal is called as well.

    Args:
        env: What runs.
        file: The deployment file.
        profile: The profile that was chosen.
        note: Notes what runs.
        seen: The fingerprint that the file had when it was read, to have it watched; else None.
    """
    from sage_deploy_cli.signal_wait import signals_wake

    stopped = False
    before: dict[int, Any] = {}  # what was called at each signal

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        for each in before:
            signal.signal(each, _interrupt_again)
        _call_too(before[number], number, frame)

    last = seen
    elsewhere = any(env.task(name).measuring.remote_members for name in env.running())
    with signals_wake() as wait:
        for number in (*_ending(), signal.SIGINT):
            before[number] = signal.getsignal(number)
            signal.signal(number, handle)
        progress(f"running{'' if seen is None else f', watching {file}'}; press Ctrl-C to stop")
        while True:
            wait(_LOOK_S if seen is not None or elsewhere else None)
            _show_logs(env)
            if stopped:
                break
            now, before_now = _fingerprint(file), last
            last = now
            # Half a file may be one that stops services: wait for the rest of it.
            if seen is not None and now != seen and now == before_now:
                seen = now
                _apply(env, file, profile)
                note()


def _call_too(handler: object, number: int, frame: FrameType | None) -> None:
    """Call the handler that was set before ours, if the services' code has set one; it decides nothing here."""
    if not callable(handler) or handler is _interrupt or handler is signal.default_int_handler:
        return
    try:
        handler(number, frame)
    except (SystemExit, KeyboardInterrupt):  # the command ends anyway, once what runs has been stopped
        pass
    except Exception as error:  # noqa: BLE001 - whatever it raises, the services are to be stopped in order
        from sage_plugins.errors import text_of

        progress(f"a handler of {signal.Signals(number).name} failed: {printable(text_of(error))}")


def _show_logs(env: Environment) -> None:
    """Show what replicas in other processes have logged since the last time; the others' lines are shown at once."""
    env.logs(after=sys.maxsize)


def _fingerprint(file: Path) -> tuple[int, ...]:
    """Another one whenever the file was written or replaced; the same for as long as it is not there."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _apply(env: Environment, file: Path, profile: str | None) -> None:
    """Have run what a changed file says; with a mistake in it everything goes on as it is."""
    from sage_deploy_cli.show_plan import show_plan
    from sage_plugins.errors import SageDeployError

    progress(f"{file} has changed")
    try:
        load(env, file, profile)
        plan = env.plan()
        show_plan(plan)
        _refuse_unplaced(plan)
        env.apply()
    except SageDeployError as error:
        complain(error)
        progress("not applied; running services are unchanged")
    else:
        progress("applied" if plan.has_changes else "nothing to do")


def _run_job(env: Environment, name: str) -> bool:
    """
    Call `process()` of a service that serves it and needs no argument; of a generator, read all items.

    Returns:
        Whether it serves it.
    """
    from sage_plugins.service.methods import needs_no_argument
    from sage_plugins.values import MethodKind

    composition = env.task(name).composition
    kind = {method.name: method.kind for method in composition.methods}.get("process")
    if kind is None or not needs_no_argument(composition.factory.service_class, "process"):
        return False
    progress(f"{name}.process() ...")
    started = monotonic()
    if kind in {MethodKind.GENERATOR, MethodKind.ASYNC_GENERATOR}:
        answer = "\n".join(map(str, env.service(name).stream("process")))
    else:
        answer = env.service(name).call("process")
    write()
    write(f"{name}.process() answered after {monotonic() - started:.2f} s:")
    if answer is not None:
        write()
        write_result(answer)
    return True


def _status_table(env: Environment) -> str:
    rows = []
    for name in env.running():
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
