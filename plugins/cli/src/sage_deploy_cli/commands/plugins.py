"""`sage-deploy plugins`: lists installed plugins, shows what they offer, and checks that they keep the contract."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from sage_deploy_cli.exit_codes import ExitCode
from sage_deploy_cli.findings import finding_lines
from sage_deploy_cli.output import heading, paragraph, printable, table, write, write_json
from sage_deploy_cli.suggesting_group import SuggestingGroup

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sage_plugins.plugins.registry import Registered

__all__ = ["check_named", "command"]

_JSON = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")


@click.group("plugins", cls=SuggestingGroup)
def command() -> None:
    """List, show and check plugins."""


@command.command("list")
@_JSON
def list_plugins(*, as_json: bool) -> None:
    """List what the installed plugins offer, those that did not load with the reason, and those that are disabled."""
    from sage_plugins.plugins.discovery import DISABLED_VARIABLE
    from sage_plugins.plugins.listing import disabled, listing, unknown_disabled
    from sage_plugins.plugins.registry import Registry

    registry = Registry.discover()
    if as_json:
        write_json(listing(registry))
    else:
        entries = sorted(registry.entries().items())
        rows = [(kind, id, entry.plugin.source, entry.registration.summary) for (kind, id), entry in entries]
        write(table(("KIND", "ID", "FROM", "WHAT"), rows))
        for failure in registry.failures:
            write(printable(f"! {failure}"))
        for plugin in registry.plugins:
            for hook in plugin.unknown_hooks:
                write(printable(f"! plugin {plugin.name!r} from {plugin.source} has an unknown hook, {hook!r}"))
        for plugin in disabled():
            write(printable(f"- plugin {plugin.name!r} from {plugin.source} is disabled"))
        for name, fix in unknown_disabled():
            write(printable(f"! {DISABLED_VARIABLE} names {name!r}, but no plugin is called that ({fix})"))
    if registry.failures:
        sys.exit(ExitCode.FAILED)


@command.command("show")
@click.argument("id")
@_JSON
def show_plugin(id: str, *, as_json: bool) -> None:
    """Show what is offered as ID: by whom, with which options, and what it can do."""
    from sage_plugins.plugins.registry import Registry

    found = Registry.discover().find_all(id)
    if as_json:
        write_json({"plugins": [_details(kind, entry) for kind, entry in found]})
    else:
        write("\n\n".join("\n".join(_description(kind, entry)) for kind, entry in found))


@command.command("check")
@click.argument("what", metavar="[PATH|NAME]", required=False)
@_JSON
def check(what: str | None, *, as_json: bool) -> None:
    """
    Check that plugins load, import nothing expensive, and keep the contract.

    Without an argument: all installed plugins. NAME is a distribution, a plugin or an ID. PATH is a folder with the
    sources of a plugin, which need not be installed. For PATH and NAME the conformance suites run too: this starts
    services, takes up to some minutes, and needs sage-deploy-testing.
    """
    if what is None:
        _check_installed(as_json=as_json)
        return
    if as_json:
        raise click.UsageError("--json shows the contract only, not the suites: leave out --json, or PATH and NAME")
    from pathlib import Path

    if not Path(what).is_dir():
        _check_named(what)
        return
    import subprocess

    from sage_deploy_cli.machine.plugin_suites import as_if_installed

    with as_if_installed(Path(what).absolute()) as (name, variables):
        program = "from sage_deploy_cli.commands.plugins import check_named as check"
        program += "; check(prog_name='sage-deploy plugins check')"
        again = [sys.executable, "-c", program, name]
        done = subprocess.run(again, env=variables, check=False)  # noqa: S603 - our own module, with this Python
    sys.exit(done.returncode)


@click.command("check")
@click.argument("name")
def check_named(name: str) -> None:
    """Check the installed plugins that NAME stands for, even if a folder has this name."""
    _check_named(name)


def _check_named(name: str) -> None:
    """Check the installed plugins that *name* stands for, including the suites. Exit if something is wrong."""
    from sage_deploy_cli.machine.plugin_suites import find_plugins, run_suites

    plugins, id = find_plugins(name)
    _check_installed(only=[plugin.name for plugin in plugins])
    sys.stdout.flush()
    if not run_suites(plugins, id):
        sys.exit(ExitCode.FAILED)


def _check_installed(*, as_json: bool = False, only: Collection[str] | None = None) -> None:
    import attrs

    from sage_deploy_cli.machine.plugin_check import check_plugins
    from sage_plugins.texts import counted

    report = check_plugins(only)
    if as_json:
        write_json(attrs.asdict(report))
    else:
        for finding in report.findings:
            write("\n".join(finding_lines(finding)))
        wrong = f"{len(report.findings)} to fix" if report.findings else "all in order"
        write(f"{counted(report.plugins, 'plugin')}, {counted(report.registrations, 'ID')}: {wrong}")
    if any(finding.status == "failure" for finding in report.findings):
        sys.exit(ExitCode.FAILED)


def _details(kind: str, entry: Registered) -> dict[str, Any]:
    import attrs

    from sage_deploy_files.describing.option_docs import registered_options
    from sage_plugins.plugins.listing import offer

    registration = entry.registration
    shared = registration.environment_options
    return {
        **offer(kind, entry),
        "hooks": list(entry.plugin.hooks),
        "capabilities": sorted(registration.capabilities),
        "checks": registration.check is not None,
        "explains": registration.explain is not None,
        "options": [attrs.asdict(option) for option in registered_options(entry)],
        "environment_options": None if shared is None else shared.id,
    }


def _description(kind: str, entry: Registered) -> Iterator[str]:
    details = _details(kind, entry)
    yield heading(f"{kind} {details['id']}")
    yield paragraph(details["summary"], "  ")
    yield ""
    facts = {
        "from": entry.plugin.source,
        "entry point": f"{details['plugin']} = {details['module']}",
        "hooks": ", ".join(details["hooks"]),
        "checks": "configurations that name it" if details["checks"] else "nothing",
        "explains": "its part of a plan" if details["explains"] else "nothing",
        "can": ", ".join(details["capabilities"]) or "nothing declared",
        "for all": f"reads options.{details['environment_options']} of the whole file",
        "options": "" if details["options"] else "none",
    }
    if details["environment_options"] is None:
        del facts["for all"]
    yield from (f"  {name:<12} {printable(text)}".rstrip() for name, text in facts.items())
    yield from _option_lines(details["options"], "    ")


def _option_lines(options: list[dict[str, Any]], indent: str) -> Iterator[str]:
    import json

    for option in options:
        default = f" = {json.dumps(option['default'], ensure_ascii=False)}"
        if option["required"]:
            default = " (required)"
        elif option["computed"]:
            default = ""
        yield f"{indent}{printable(option['name'] + ': ' + option['type'] + default)}"
        if option["doc"]:
            yield paragraph(option["doc"], f"{indent}    ")
        yield from _option_lines(option["options"], f"{indent}    ")
