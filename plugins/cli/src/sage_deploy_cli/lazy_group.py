"""A group of commands, each in a module that is imported when its command is asked for."""

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
    The command `name` is the object `command` of the module `package.name`, or one that a plugin adds.

    Plugins are asked only where the package has no such command, and for the list of all.
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
        Name the commands.

        Args:
            args: As for `click.Group`.
            package: Where the modules are.
            summaries: The commands by name, in their order, with what the list of commands says of each.
            elsewhere: As for `SuggestingGroup`.
            more: Gives the commands that plugins add, by name.
            settings: As for `click.Group`.
        """
        super().__init__(*args, **settings)
        self._package = package
        self._summaries = summaries
        self.elsewhere = elsewhere
        self._more = cache(more)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        """Name the commands in their order."""
        return [*self._summaries, *self._more()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's interface
        """Import the command, or return None if there is none of that name."""
        if cmd_name in self._summaries:
            command: click.Command = import_module(f"{self._package}.{cmd_name}").command
            return command
        added = self._more().get(cmd_name)
        loaded: click.Command | None = None if added is None else added.load()
        return loaded

    def summaries(self, ctx: click.Context) -> Mapping[str, str]:  # noqa: ARG002 - as the class above declares it
        """What the list of commands says of each; none is imported for it."""
        return {**self._summaries, **{name: command.summary for name, command in self._more().items()}}
