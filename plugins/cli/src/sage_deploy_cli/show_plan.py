"""A plan on the terminal, its signs in colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from sage_deploy_cli.output import coloured, printable, write

if TYPE_CHECKING:
    from sage_plugins.planning.plan import DeploymentPlan

__all__ = ["show_plan"]

#: Colours of the signs: those of services at the margin, those of details in front of the detail.
_SERVICES: Final = {"+ ": "green", "~ ": "yellow", "- ": "red", "! ": "yellow"}
_DETAILS: Final = {"~ ": "yellow", "! ": "yellow"}


def show_plan(plan: DeploymentPlan, *, all_settings: bool = False) -> None:
    """
    Write a plan to stdout.

    Args:
        plan: The plan.
        all_settings: Show the settings that have their defaults, too.
    """
    write("\n".join(map(_coloured, plan.text(all_settings=all_settings).split("\n"))))


def _coloured(line: str) -> str:
    text = printable(line)
    colour = _SERVICES.get(text[:2]) or _DETAILS.get(text.lstrip()[:2])
    return click.style(text, fg=colour) if coloured() and colour else text
