"""`sage-deploy plan`: shows what `up` would do."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

import click

from sage_deploy_cli.environment_of import FILE, PROFILE, environment_of
from sage_deploy_cli.exit_codes import ExitCode
from sage_deploy_cli.output import complain, progress, write

__all__ = ["command"]


@click.command("plan")
@FILE
@PROFILE
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Show the whole plan: which plugin decides, where values come from, what is enforced.",
)
@click.option("--all", "all_settings", is_flag=True, help="Like -v, and also show settings with default values.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the plan to this file. `up` executes it, or refuses it if it is stale.",
)
@click.option(
    "--detailed-exitcode",
    is_flag=True,
    help="Exit with 3 if there are changes, and with 0 if there are none.",
)
def command(  # noqa: PLR0913 - one parameter for each option
    file: Path,
    profile: str | None,
    out: Path | None,
    *,
    as_json: bool,
    verbose: bool,
    all_settings: bool,
    detailed_exitcode: bool,
) -> None:
    """
    Show what `up FILE` would start, replace or stop, and why; starts nothing.

    If you already run FILE with `up`, the plan shows the difference from the running services.
    """
    # Imported here because `plan --help` needs no library.
    from sage_deploy_cli.runs.run_record import find_run
    from sage_deploy_cli.show_plan import show_plan

    if out is not None and out.exists() and file.exists() and out.samefile(file):
        raise click.UsageError("--out: names the deployment file itself; name another one")
    run = find_run(file)
    # Keep what modules print on import out of the data on stdout.
    with environment_of(file, profile) as env, redirect_stdout(sys.stderr):
        plan = env.plan(None if run is None else run.services)
    if run is not None:
        progress(f"process {run.pid} runs {file} already: this is what is different. `up` refuses a second copy")
    if as_json:
        write(plan.to_json())
    else:
        show_plan(plan, verbose=verbose, all_settings=all_settings)
    if out is not None:
        from sage_deploy_cli.runs.plan_file import save_plan

        try:
            save_plan(out, plan, file, profile)
        except OSError as error:
            complain(f"cannot write {out}: {error.strerror}")
            sys.exit(ExitCode.FAILED)
        progress(f"the plan is in {out}; execute it with: sage-deploy up {out}")
    if plan.unplaced:
        sys.exit(ExitCode.FAILED)
    if detailed_exitcode and plan.has_changes:
        sys.exit(ExitCode.CHANGES)
