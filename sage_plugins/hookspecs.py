"""
The hooks that a plugin can implement.

A plugin is a module that has functions marked `@hookimpl` and is named in the entry-point group `sage_deploy`. Hooks
return registrations, one for each ID, and registrations make the objects that do the work, see
`sage_plugins.interfaces`. The core calls each hook once per registry, at its first use, and never while it handles a
call.
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
    Offer targets, which decide where replicas run. The field `target` names one.

    `create(options)` makes an `interfaces.Target`.

    Example:
        ```python
        @hookimpl
        def sage_register_targets():
            return [Registration("my_target", create_target, "Runs replicas on my machines")]
        ```
    """


@hookspec
def sage_register_threading_strategies() -> list[Registration]:  # type: ignore[empty-body]
    """
    Offer threading strategies, which decide how a replica runs its calls. The field `threading_strategy` names one.

    `create(options)` makes an `interfaces.Strategy`.

    Example:
        ```python
        @hookimpl
        def sage_register_threading_strategies():
            return [Registration("my_strategy", MyStrategy, "One thread with a big stack", options=MyOptions)]
        ```
    """


@hookspec
def sage_register_load_balancers() -> list[Registration]:  # type: ignore[empty-body]
    """
    Offer load balancers, which choose the replica for the next call. The field `load_balancer` names one.

    `create(options, where)` makes an `interfaces.Balancer`; *where* is a `Where`.
    """


@hookspec
def sage_register_monitors() -> list[Registration]:  # type: ignore[empty-body]
    """
    Offer monitors, which record what a service does. The field `monitors` names them.

    `create(options)` makes an `interfaces.Monitor`. In each replica's process, the core calls `create` again; there, an
    `interfaces.RecorderFactory` is enough.
    """


@hookspec
def sage_register_readers() -> list[Registration]:  # type: ignore[empty-body]
    """Offer readers of deployment files. `create(None)` makes an `interfaces.ConfigReader`."""


@hookspec
def sage_register_autoscalers() -> list[Registration]:  # type: ignore[empty-body]
    """
    Offer autoscalers, which decide how many replicas a service has. The field `autoscale.policy` names one.

    `create(options)` makes an `interfaces.Autoscaler`.
    """


@hookspec
def sage_register_extensions() -> list[Registration]:  # type: ignore[empty-body]
    """
    Offer extensions, such as a server, which accompany an environment.

    `create(options)` makes an `interfaces.Extension`, for each environment whose options have the ID:
    `options: {my_extension: {...}}` at the top of a file, or `Environment(options={"my_extension": {...}})`.
    """


@hookspec
def sage_register_commands() -> list[Command]:  # type: ignore[empty-body]
    """
    Offer commands of `sage-deploy`. A click command is imported only when a user runs it.

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

    Each is a function without arguments that returns findings, even if all is well. It must start and change nothing,
    and may import anything.

    Example:
        ```python
        @hookimpl
        def sage_register_checks():
            return [check_driver]
        ```
    """
