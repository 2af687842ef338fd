"""Calls the hooks of one plugin and checks what it returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sage_plugins.errors import PluginError, line_of
from sage_plugins.values import Registration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pluggy

    from sage_plugins.findings import Finding
    from sage_plugins.plugins.discovery import Plugin
    from sage_plugins.values import EnvironmentOptions


__all__ = ["KINDS", "checks_of", "registrations_of"]


#: What can be registered, by the hook that registers it.
KINDS: Final = {
    "target": "sage_register_targets",
    "threading strategy": "sage_register_threading_strategies",
    "load balancer": "sage_register_load_balancers",
    "monitor": "sage_register_monitors",
    "file reader": "sage_register_readers",
}


def registrations_of(manager: pluggy.PluginManager, plugin: Plugin, module: Any) -> list[tuple[str, Registration]]:
    """Check the plugin's hooks against the specifications and collect its registrations."""
    try:
        manager.register(module, plugin.name)
        manager.check_pending()
    except Exception as error:
        if manager.get_plugin(plugin.name) is not None:
            manager.unregister(module)
        msg = f"plugin {plugin.name!r} from {plugin.source} does not fit the hooks of this version: {line_of(error)}"
        raise PluginError(msg) from error
    plugin.hooks = tuple(sorted(caller.name for caller in manager.get_hookcallers(module) or ()))
    found: list[tuple[str, Registration]] = []
    for kind, hook in KINDS.items():
        for registrations in _own(manager, module, hook):
            for registration in registrations:
                if not isinstance(registration, Registration):
                    msg = (
                        f"{hook} of plugin {plugin.name!r} from {plugin.source} returned "
                        f"{registration!r}, not a Registration"
                    )
                    raise PluginError(msg)
                found.append((kind, registration))
    _check_agreement(plugin, [registration for _, registration in found])
    return found


def _check_agreement(plugin: Plugin, registrations: Iterable[Registration]) -> None:
    """
    See that a plugin says one thing only of the options that it reads for a whole environment.

    Raises:
        PluginError: It says two things.
    """
    known: dict[str, EnvironmentOptions] = {}
    for shared in filter(None, (registration.environment_options for registration in registrations)):
        if known.setdefault(shared.id, shared) != shared:
            msg = (
                f"plugin {plugin.name!r} from {plugin.source} registers two different environment_options "
                f"{shared.id!r}: give all registrations the same"
            )
            raise PluginError(msg)


def checks_of(manager: pluggy.PluginManager, plugin: Plugin, module: Any) -> list[Callable[[], Iterable[Finding]]]:
    """
    Give what the plugin has the doctor look at.

    Raises:
        PluginError: Something of it cannot be called.
    """
    hook = "sage_register_checks"
    found = [check for checks in _own(manager, module, hook) for check in checks]
    for check in found:
        if not callable(check):
            msg = f"{hook} of plugin {plugin.name!r} from {plugin.source} returned {check!r}, which cannot be called"
            raise PluginError(msg)
    return found


def _own(manager: pluggy.PluginManager, module: Any, hook: str) -> list[Any]:
    """What this plugin's own implementations return: one that raises must not hide the others'."""
    others = [known for known in manager.get_plugins() if known is not module]
    results: list[Any] = manager.subset_hook_caller(hook, others)()
    return results
