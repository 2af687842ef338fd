"""
The hooks through which a plugin is heard: each returns registrations, and is called only while a service is composed.

A plugin is a module with functions marked `@hookimpl`, named in the entry-point group `sage_deploy`. Objects made by
the registrations do the work; `sage_plugins.interfaces` says what they must be.
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
    Offer targets: where replicas run. Called once per registry, when it is first looked at.

    Return a registration for each ID; `create(options)` makes an `interfaces.Target`.

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
    Offer threading strategies: how a replica runs its calls. Called once per registry, when it is first looked at.

    Return a registration for each ID; `create(options)` makes an `interfaces.Strategy`.

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
    Offer load balancers: who gets the next call. Called once per registry, when it is first looked at.

    Return a registration for each ID; `create(options)` makes an `interfaces.Balancer`.

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
    Offer monitors: what is recorded of a service. Called once per registry, when it is first looked at.

    Return a registration for each ID; `create(options)` makes an `interfaces.Monitor`. It is also called in each
    replica's process, which needs only an `interfaces.RecorderFactory`.

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
    Offer readers of deployment files. Called once per registry, when it is first looked at.

    Return a registration for each ID; `create(None)` makes an `interfaces.ConfigReader`.

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
    Offer autoscalers: how many replicas a service should have. Called once per registry, when it is first looked at.

    Return a registration for each ID; `create(options)` makes an `interfaces.Autoscaler`.

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
    Offer extensions: what lives beside an environment. Called once per registry, when it is first looked at.

    Return a registration for each ID; `create(options)` makes an `interfaces.Extension`. It is made if the
    environment's options have its ID: `options: {my_extension: {...}}` at the top of a file, or
    `Environment(options={"my_extension": {...}})`; they are read into the registration's options class.

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
    Offer commands of `sage-deploy`. Called once per registry, when it is first looked at.

    Return a `Command` for each; its click command is imported when it is used.

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
    Offer checks for `sage-deploy doctor`. Called once per registry, when it is first looked at.

    Return functions without arguments that look at what the plugin needs of this machine: each gives findings, also if
    all is well, and starts and changes nothing. They run when somebody asks how the machine is, and may import what
    they like.

    Example:
        ```python
        @hookimpl
        def sage_register_checks():
            return [check_driver]
        ```
    """
