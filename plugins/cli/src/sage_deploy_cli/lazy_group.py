"""A group of commands that imports the module of a command only when the command is used."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sage_deploy_cli.suggesting_group import SuggestingGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import click

    from sage_plugins.values import Command

__all__ = ["LazyGroup"]


class LazyGroup(SuggestingGroup):
    """
    The command `name` is the object `command` of the module `package.name`, or comes from a plugin.

    Plugins are loaded only for a command that the package does not have, and to list all commands.
    """

    def __init__(
        self,
        *args: Any,
        package: str,
        summaries: Mapping[str, str],
        elsewhere: Mapping[str, str],
        more: Callable[[], Mapping[str, Command]],
        **settings: Any,
    ) -> None:
        """
        Set the commands.

        Args:
            args: As for `click.Group`.
            package: The package with the modules.
            summaries: Summary of each command, by name, in display order.
            elsewhere: As for `SuggestingGroup`.
            more: Returns the commands that plugins add, by name.
            settings: As for `click.Group`.
        """
        super().__init__(*args, **settings)
        self._package = package
        self._summaries = summaries
        self.elsewhere = elsewhere
        self._more = cache(more)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        """Return the names of the commands in display order."""
        return [*self._summaries, *self._more()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's interface
        """Import and return the command, or return None if there is none of this name."""
        if cmd_name in self._summaries:
            command: click.Command = import_module(f"{self._package}.{cmd_name}").command
            return command
        added = self._more().get(cmd_name)
        loaded: click.Command | None = None if added is None else added.load()
        return loaded

    def summaries(self, ctx: click.Context) -> Mapping[str, str]:  # noqa: ARG002 - the base class declares it
        """Return the summary of each command, without importing any."""
        return {**self._summaries, **{name: command.summary for name, command in self._more().items()}}
