"""A plan on the terminal, its signs in colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from sage_deploy_cli.output import coloured, printable, wrapped, write

if TYPE_CHECKING:
    from sage_plugins.planning.plan import DeploymentPlan

__all__ = ["show_plan"]

#: Colours of the signs: those of services at the margin, those of details in front of the detail.
_SERVICES: Final = {"+ ": "green", "~ ": "yellow", "- ": "red", "! ": "yellow"}
_DETAILS: Final = {"~ ": "yellow", "! ": "yellow"}


def show_plan(plan: DeploymentPlan, *, verbose: bool = False, all_settings: bool = False) -> None:
    """
    Write a plan to stdout, a line for each service and one for each change or warning.

    Args:
        plan: The plan.
        verbose: Show all of it: who decides what, where every value comes from, what is enforced.
        all_settings: Show all of it, with the settings that have their defaults.
    """
    text = plan.text(all_settings=all_settings) if verbose or all_settings else plan.summary()
    write("\n".join(_coloured(part) for line in text.split("\n") for part in wrapped(line)))


def _coloured(line: str) -> str:
    text = printable(line)
    colour = _SERVICES.get(text[:2]) or _DETAILS.get(text.lstrip()[:2])
    return click.style(text, fg=colour) if coloured() and colour else text
