"""A group of commands that answers a missing or misspelt command with the list or the nearest spelling."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from sage_deploy_cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SuggestingGroup"]


class SuggestingGroup(click.Group):
    """
    Behaves as `click.Group`, but answers these two mistakes in the same way with every version of click.

    Attributes:
        elsewhere: Commands that are not installed, with the extra that installs them.
    """

    elsewhere: Mapping[str, str] = MappingProxyType({})

    def summaries(self, ctx: click.Context) -> Mapping[str, str]:
        """Return the summary of each command: the whole first paragraph of its help."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        return {name: command.get_short_help_str(10_000) for name, command in commands.items() if command is not None}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries(ctx).items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """If no command is given, show the help on stderr: nobody asked for it, so it is no data."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(ExitCode.BAD_INPUT)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that *args* begin with, or raise an error with the nearest spelling."""
        name = args[0]
        if name.startswith("-") or ctx.resilient_parsing or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        if name in self.elsewhere:
            how = f"pip install 'sage-deploy[{self.elsewhere[name]}]'"
            raise click.UsageError(f"The command {name!r} is not installed: {how}", ctx)
        from sage_plugins.texts import did_you_mean

        near = did_you_mean(name, self.list_commands(ctx))
        raise click.UsageError(f"No such command {name!r}." + (f" Did you mean {near!r}?" if near else ""), ctx)
