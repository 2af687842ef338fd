"""`sage-deploy doctor`: checks whether this machine can run services."""

from __future__ import annotations

import sys

import click

from sage_deploy_cli.exit_codes import ExitCode
from sage_deploy_cli.findings import finding_lines
from sage_deploy_cli.output import write, write_json

__all__ = ["command"]


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(*, as_json: bool) -> None:
    """Check whether this machine and this Python can run services, and say what to fix."""
    import attrs

    from sage_deploy_cli.machine.checks import check_machine
    from sage_plugins.errors import PluginConflictError
    from sage_plugins.plugins.listing import examine
    from sage_plugins.plugins.registry import Registry

    try:
        findings = examine(Registry.discover())
    except PluginConflictError:  # the plugin check reports the conflict
        findings = check_machine()
    count = {status: sum(finding.status == status for finding in findings) for status in ("failure", "warning")}
    if as_json:
        write_json({"findings": [attrs.asdict(finding) for finding in findings]})
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            write("\n".join(finding_lines(finding, width)))
        words = [f"{number} {status}{'' if number == 1 else 's'}" for status, number in count.items() if number]
        write(f"\n{', '.join(words) or 'all is well'}")
    if count["failure"]:
        sys.exit(ExitCode.FAILED)
