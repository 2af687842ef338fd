"""`sage-deploy up`: deploys a file, or a saved plan, and keeps it running."""

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

#: Seconds between two checks of a watched file.
_LOOK_S: Final = 1.0
#: The choices for the lowest level of logs to show.
_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
#: Signals that end the command as Ctrl-C does: supervisors send SIGTERM, a closed terminal SIGHUP.
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
def command(  # noqa: PLR0913 - one parameter for each option
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
    # Imported in the functions that need it, because `up --help` needs no library.
    from sage_deploy_cli.log_lines import log_lines
    from sage_deploy_cli.runs.plan_file import read_plan
    from sage_deploy_cli.show_plan import show_plan

    saved = read_plan(file)
    if saved is not None:
        if profile is not None:
            raise click.UsageError("--profile: the plan has chosen its profile already")
        file, profile = saved.file, saved.profile
    # Taken before the file is read: later changes, for instance while services start, must still be applied.
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
        # Detached replicas of an earlier process may take the room; `deploy` takes them over, or finds no place itself.
        _refuse_unplaced(plan, lambda name: env.task(name).reach.outlives)
        with _recorded(file, profile, env, another=another) as note:
            _serve(env, plan, file, profile, note, once=once, wait=wait, seen=seen)


def _server(http: str | None, *, once: bool) -> dict[str, dict[str, Any]]:
    """Return the options that make this process reachable from other processes, if the server is installed."""
    from sage_plugins.plugins.registry import Registry

    if "server" not in Registry.discover().ids("extension"):
        if http is None:
            return {}
        raise click.UsageError("--http is brought by sage-deploy-server: pip install 'sage-deploy[server]'")
    given = {} if http is None else {"http": http}
    if once:  # the services end too soon for a login
        return {"server": given} if given else {}
    return {"server": {**given, "login_link": True}}


class _SecondSignal(KeyboardInterrupt):
    """A second signal: stop without waiting for calls."""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _interrupt_again(_number: int, _frame: FrameType | None) -> None:
    raise _SecondSignal


def _ending() -> list[int]:
    """Return the signals other than Ctrl-C that end the command. Ignored signals stay ignored."""
    return [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def _stopped_at_the_end(env: Environment) -> Iterator[Environment]:
    """Close *env* at the end of the block and wait for its calls. A signal meanwhile ends the wait."""
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
    """Let signals interrupt as Ctrl-C does, so that services are stopped in order."""
    before = {number: signal.signal(number, _interrupt) for number in _ending()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve(  # noqa: PLR0913 - the options of the command
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
    """Tell the user who can call the started services."""
    if reached and names:
        progress("in another terminal: sage-deploy status | call SERVICE.METHOD | logs -f | scale | apply | down")
    targets = {name: env.task(name).composition.target.registration for name in names}
    here = [name for name in names if "reachable" not in targets[name].capabilities]
    beyond = [name for name in names if name not in here]
    if here and not reached:
        progress(f"only services of this process can call {', '.join(here)}")
    if beyond:
        progress(f"services of other processes on the same machine or cluster can call {', '.join(beyond)}, too")


def _second(pid: int, file: Path) -> DeployError:
    from sage_plugins.errors import DeployError

    return DeployError(
        f"process {pid} runs {file} already; stop it first, start it with --watch so that it applies changes of the "
        "file, or start a second copy with --another"
    )


def _refuse_second(file: Path) -> None:
    """Refuse a second copy of a file that another process of this user runs, before anything is read or imported."""
    from sage_deploy_cli.runs.run_record import find_run

    run = find_run(file)
    if run is not None:
        raise _second(run.pid, file)


def _planned(saved: SavedPlan, env: Environment, *, another: bool) -> DeploymentPlan:
    """Plan the current configuration. Return the plan if it still equals the saved one."""
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
    """Show events of replicas, requests for changes, and the progress of updates."""
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
    Record what this process runs, for plans in other processes. If that fails, services run without a record.

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
        if run is not None and not another:  # it started after `_refuse_second` looked
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


def _refuse_unplaced(plan: DeploymentPlan, may_run: Callable[[str], bool] = lambda _: False) -> None:
    """Refuse a plan with replicas that have no place, except those of services that may run already."""
    unplaced = [service.name for service in plan.services if any(each.where is None for each in service.replicas)]
    if not all(map(may_run, unplaced)):
        from sage_plugins.errors import DeployError

        names = ", ".join(replica.id for replica in plan.unplaced)
        raise DeployError(f"there is no place for {names}; nothing was started")
    if unplaced:
        progress(f"no place for new replicas of {', '.join(unplaced)}; those that run already are taken over")


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
    Wait until a signal ends the command. A second signal interrupts the shutdown.

    If the services' code has set a handler for the signal, it is called too.

    Args:
        env: The environment.
        file: The deployment file.
        profile: The chosen profile.
        note: Records what runs.
        seen: Fingerprint of the file when it was read, to watch it. None: the file is not watched.
    """
    from sage_deploy_cli.signal_wait import signals_wake

    stopped = False
    before: dict[int, Any] = {}  # the former handler of each signal

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        for each in before:
            signal.signal(each, _interrupt_again)
        _call_too(before[number], number, frame)

    last = seen
    looks = any(env.task(name).measuring.remote_members for name in env.running())  # for their log lines
    looks = looks or seen is not None or "server" in env.registry.ids("extension")
    may_have_changed = _change_detector(env)
    with signals_wake() as wait:
        for number in (*_ending(), signal.SIGINT):
            before[number] = signal.getsignal(number)
            signal.signal(number, handle)
        progress(f"running{'' if seen is None else f', watching {file}'}; press Ctrl-C to stop")
        while True:
            wait(_LOOK_S if looks else None)
            _show_logs(env)
            if stopped:
                break
            now, before_now = _fingerprint(file), last
            last = now
            # Apply only after two equal looks: a half-written file could stop services.
            if seen is not None and now != seen and now == before_now:
                seen = now
                _apply(env, file, profile)
            if may_have_changed():
                note()


def _change_detector(env: Environment) -> Callable[[], bool]:
    """Return a function: has an event come since its last but one call? A change may end a moment after its event."""
    last, news = 0, False

    def may_have_changed() -> bool:
        nonlocal last, news
        events, earlier_news = env.events(last), news
        news = bool(events)
        if events:
            last = events[-1].seq
        return news or earlier_news

    return may_have_changed


def _call_too(handler: object, number: int, frame: FrameType | None) -> None:
    """Call the services' own handler of a signal, if they have set one. Its result is ignored."""
    if not callable(handler) or handler is _interrupt or handler is signal.default_int_handler:
        return
    try:
        handler(number, frame)
    except (SystemExit, KeyboardInterrupt):  # the command ends anyway, after the services have stopped
        pass
    except Exception as error:  # noqa: BLE001 - whatever it raises, services must be stopped in order
        from sage_plugins.errors import text_of

        progress(f"a handler of {signal.Signals(number).name} failed: {printable(text_of(error))}")


def _show_logs(env: Environment) -> None:
    """Fetch the new log lines of replicas in other processes and show them. Lines of this process are shown at once."""
    env.logs(after=sys.maxsize)


def _fingerprint(file: Path) -> tuple[int, ...]:
    """Return a value that changes when the file is written or replaced. It is empty while there is no file."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _apply(env: Environment, file: Path, profile: str | None) -> None:
    """Apply a changed file. If it has a mistake, running services stay unchanged."""
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
    Call `process()` of a service that has it without required arguments. Of a generator, read all items.

    Returns:
        Whether the service has such a method.
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
