"""
The hooks that a plugin can implement.

A plugin is a module that has functions marked `@hookimpl` and is named in the entry-point group `sage_deploy`. Hooks
return registrations, and registrations make the objects that do the work. `sage_plugins.interfaces` describes these
objects. The core calls each hook once per registry, and never while it handles a call.
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
    Offer targets, which decide where replicas run. Called once per registry, at its first use.

    Return one registration for each ID. Its `create(options)` makes an `interfaces.Target`.

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
    Offer threading strategies, which decide how a replica runs its calls. Called once per registry, at its first use.

    Return one registration for each ID. Its `create(options)` makes an `interfaces.Strategy`.

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
    Offer load balancers, which choose the replica for the next call. Called once per registry, at its first use.

    Return one registration for each ID. Its `create(options, where)` makes an `interfaces.Balancer`.

    Example:
        ```python
        @hookimpl
        def sage_register_load_balancers():
            return [Registration("first", create_first, "Always the first replica")]
        ```
    """


@hookspec
def sage_register_monitors() -> list[Registration]:  # type: ignore[empty-body]
    """
    Offer monitors, which record what a service does. Called once per registry, at its first use.

    Return one registration for each ID. Its `create(options)` makes an `interfaces.Monitor`. The core also calls
    `create` in each replica's process; there the object needs only the members of `interfaces.RecorderFactory`.

    Example:
        ```python
        @hookimpl
        def sage_register_monitors():
            return [Registration("audit", create_audit, "Writes every call to a file", options=AuditOptions)]
        ```
    """


@hookspec
def sage_register_readers() -> list[Registration]:  # type: ignore[empty-body]
    """
    Offer readers of deployment files. Called once per registry, at its first use.

    Return one registration for each ID. Its `create(None)` makes an `interfaces.ConfigReader`.

    Example:
        ```python
        @hookimpl
        def sage_register_readers():
            return [Registration("toml", create_reader, "Reads services from a TOML file")]
        ```
    """


@hookspec
def sage_register_autoscalers() -> list[Registration]:  # type: ignore[empty-body]
    """
    Offer autoscalers, which decide how many replicas a service has. Called once per registry, at its first use.

    Return one registration for each ID. Its `create(options)` makes an `interfaces.Autoscaler`.

    Example:
        ```python
        @hookimpl
        def sage_register_autoscalers():
            return [Registration("office_hours", OfficeHours, "Fewer replicas at night", options=OfficeHoursOptions)]
        ```
    """


@hookspec
def sage_register_extensions() -> list[Registration]:  # type: ignore[empty-body]
    """
    Offer extensions, such as a server, which accompany an environment. Called once per registry, at its first use.

    Return one registration for each ID. Its `create(options)` makes an `interfaces.Extension`. An environment
    makes the extension if its options have the ID: `options: {my_extension: {...}}` at the top of a file, or
    `Environment(options={"my_extension": {...}})`. *options* is an instance of the registration's options class.

    Example:
        ```python
        @hookimpl
        def sage_register_extensions():
            return [Registration("pager", Pager, "Calls somebody when a service fails", options=PagerOptions)]
        ```
    """


@hookspec
def sage_register_commands() -> list[Command]:  # type: ignore[empty-body]
    """
    Offer commands of `sage-deploy`. Called once per registry, at its first use.

    Return one `Command` for each. Its click command is imported only when a user runs it.

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
    Offer checks for `sage-deploy doctor`. Called once per registry, at its first use.

    Return functions without arguments that check what the plugin needs on this machine. Each function returns findings,
    even if all is well. It must start and change nothing. It runs only in `sage-deploy doctor`, so it may import
    anything.

    Example:
        ```python
        @hookimpl
        def sage_register_checks():
            return [check_driver]
        ```
    """
