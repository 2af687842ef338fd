"""
The hooks that a plugin can implement.

A plugin is a module in the entry-point group `sage_deploy` whose functions are marked `@hookimpl`. Hooks return one
registration for each ID; registrations make the objects that do the work, see `sage_plugins.interfaces`. The core calls
each hook once per registry, at its first use, never for a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sage_plugins.findings import Finding
    from sage_plugins.values import Command, Registration

__all__ = ["PROJECT", "hookimpl", "hookspec"]

#: Name of the pluggy project and of the entry-point group.
PROJECT: Final = "sage_deploy"

hookspec = pluggy.HookspecMarker(PROJECT)
#: Marks a plugin's implementation of a hook.
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def sage_register_targets() -> list[Registration]:  # type: ignore[empty-body]
    """
    Offer targets, for the field `target`. `create(options)` makes an `interfaces.Target`.

    Example:
        ```python
        @hookimpl
        def sage_register_targets():
            return [Registration("my_target", create_target, "Runs replicas on my machines", options=MyOptions)]
        ```
    """


@hookspec
def sage_register_threading_strategies() -> list[Registration]:  # type: ignore[empty-body]
    """
    Offer threading strategies, for the field `threading_strategy`. `create(options)` makes an `interfaces.Strategy`.
    """


@hookspec
def sage_register_load_balancers() -> list[Registration]:  # type: ignore[empty-body]
    """
    Offer load balancers, for the field `load_balancer`.

    `create(options, where)` makes an `interfaces.Balancer`; *where* is a `Where`.
    """


@hookspec
def sage_register_monitors() -> list[Registration]:  # type: ignore[empty-body]
    """
    Offer monitors, for the field `monitors`.

    `create(options)` makes an `interfaces.Monitor`. The core calls it again in each replica's process, where an
    `interfaces.RecorderFactory` is enough.
    """


@hookspec
def sage_register_readers() -> list[Registration]:  # type: ignore[empty-body]
    """Offer readers of deployment files. `create(None)` makes an `interfaces.ConfigReader`."""


@hookspec
def sage_register_autoscalers() -> list[Registration]:  # type: ignore[empty-body]
    """Offer autoscalers, for the field `autoscale.policy`. `create(options)` makes an `interfaces.Autoscaler`."""


@hookspec
def sage_register_extensions() -> list[Registration]:  # type: ignore[empty-body]
    """
    Offer extensions, such as a server, which accompany an environment.

    `create(options)` makes an `interfaces.Extension` for each environment whose options have the ID: `options:
    {my_extension: {...}}` at the top of a file, or `Environment(options={"my_extension": {...}})`.
    """


@hookspec
def sage_register_commands() -> list[Command]:  # type: ignore[empty-body]
    """
    Offer commands of `sage-deploy`. A click command is imported only when used.

    Example:
        ```python
        def load_audit():
            from acme_audit.cli import audit

            return audit


        @hookimpl
        def sage_register_commands():
            return [Command("audit", load_audit, "Show who called what.")]
        ```
    """


@hookspec
def sage_register_checks() -> list[Callable[[], Iterable[Finding]]]:  # type: ignore[empty-body]
    """
    Offer checks of what the plugin needs on this machine, for `sage-deploy doctor`.

    Each is a function without arguments that returns findings, even if all is well. It must start and change nothing;
    it may import anything.
    """
