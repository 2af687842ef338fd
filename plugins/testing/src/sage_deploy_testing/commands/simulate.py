"""The command `sage-deploy simulate`: simulates a service of a file in virtual time."""

from __future__ import annotations

import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import click

from sage_deploy_cli.environment_of import FILE, PROFILE, environment_of
from sage_deploy_cli.output import printable_text, progress, write, write_json

__all__ = ["command"]


@click.command("simulate")
@FILE
@PROFILE
@click.option("--service", help="Service of FILE to simulate; optional if FILE has only one.")
@click.option(
    "--load",
    "loads",
    multiple=True,
    required=True,
    metavar="LOAD",
    help="Load, such as '200/s for 60s' or 'get 100/s..1000/s for 60s, keys 1000 zipf 1.1'; may be repeated.",
)
@click.option(
    "--time",
    "times",
    multiple=True,
    required=True,
    metavar="TIME",
    help="Duration of a method, such as 'get=lognormal(10ms, 0.8)'; may be repeated.",
)
@click.option(
    "--faults",
    multiple=True,
    metavar="FAULTS",
    help="Faults, such as 'crash at 20s; slow x10 replica 3 at 10s for 20s'; may be repeated.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="Number of nodes.")
@click.option("--slots", type=click.IntRange(1), help="Slots of each replica; default: as FILE says.")
@click.option("--startup", default="1s", show_default=True, metavar="DURATION", help="Start time of a replica.")
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write an HTML page with plots.",
)
@click.option(
    "--trace", "trace", type=click.Path(path_type=Path, dir_okay=False), help="Also write one line for each event."
)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of the report.",
)
def command(  # noqa: PLR0913, PLR0917 - a parameter for each option
    file: Path,
    profile: str | None,
    service: str | None,
    loads: tuple[str, ...],
    times: tuple[str, ...],
    faults: tuple[str, ...],
    seed: int,
    nodes: int,
    slots: int | None,
    startup: str,
    page: Path | None,
    trace: Path | None,
    form: str,
) -> None:
    """
    Simulate a service of FILE in virtual time, with its real router, balancer, guards and autoscaler.

    Starts nothing and runs no method: each takes the time that you give. The same options and seed give the same
    result.
    """
    # These imports take long, and `simulate --help` does not need them.
    from sage_deploy_testing.load_simulation.composed import composition_in
    from sage_deploy_testing.load_simulation.scenario.spelling import faults_of, load_of, seconds_of, time_of_method
    from sage_deploy_testing.load_simulation.scenario.times import constant
    from sage_deploy_testing.load_simulation.simulated import Simulated
    from sage_plugins.errors import ServiceNotFoundError

    # What a module prints during its import is no data.
    try:
        with environment_of(file, profile) as env, redirect_stdout(sys.stderr):
            composition = composition_in(env, service)
    except ServiceNotFoundError as error:
        raise click.UsageError(f"--service: {error}") from error
    try:
        sim = Simulated(
            lambda _: composition,
            seed,
            nodes=nodes,
            slots=slots,
            startup=constant(seconds_of(startup)),
            settle=60.0,
            trace=trace is not None,
        )
        for method, seconds in map(time_of_method, times):
            sim.time(method, seconds)
        served = [plan.name for plan in composition.methods]
        only = served[0] if len(served) == 1 else None
        for called, phases, keys, priority in map(load_of, loads):
            sim.load(phases=phases, method=called or only, keys=keys, priority=priority)
        for fault in [each for text in faults for each in faults_of(text)]:
            sim.fault(fault)
        began = time.perf_counter()
        report = sim.run()
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    progress(f"simulated {report.ended_at:.4g} s in {time.perf_counter() - began:.1f} s")
    for path, text in ((page, report.to_html), (trace, lambda: report.trace)):
        if path is not None:
            try:
                path.write_bytes(text().encode())
            except OSError as error:
                raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error
            progress(f"wrote {path}")
    if form == "json":
        write_json(report.as_dict())
    else:
        write(printable_text(str(report)))
