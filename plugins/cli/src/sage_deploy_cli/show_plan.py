"""Writes a plan to the terminal, with coloured signs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from sage_deploy_cli.output import coloured, printable, wrapped, write

if TYPE_CHECKING:
    from sage_plugins.planning.plan import DeploymentPlan

__all__ = ["show_plan"]

#: Colours of the signs: of services at the margin, of details in front of the detail.
_SERVICES: Final = {"+ ": "green", "~ ": "yellow", "- ": "red", "! ": "yellow"}
_DETAILS: Final = {"~ ": "yellow", "! ": "yellow"}


def show_plan(plan: DeploymentPlan, *, verbose: bool = False, all_settings: bool = False) -> None:
    """
    Write a plan to stdout: one line for each service, change and warning.

    Args:
        plan: The plan.
        verbose: Show the whole plan: which plugin decides what, the source of each value, what is enforced.
        all_settings: Show the whole plan, including settings with default values.
    """
    text = plan.text(all_settings=all_settings) if verbose or all_settings else plan.summary()
    write("\n".join(_coloured(part) for line in text.split("\n") for part in wrapped(line)))


def _coloured(line: str) -> str:
    text = printable(line)
    colour = _SERVICES.get(text[:2]) or _DETAILS.get(text.lstrip()[:2])
    return click.style(text, fg=colour) if coloured() and colour else text
