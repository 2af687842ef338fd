"""Calls the hooks of one plugin and checks what it returns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final

import pluggy

from sage_plugins import hookspecs
from sage_plugins.hookspecs import PROJECT
from sage_plugins.values import API, Command, EnvironmentOptions, Registration

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.errors import PluginError
    from sage_plugins.findings import Finding
    from sage_plugins.plugins.discovery import Plugin

__all__ = ["KINDS", "Hooks"]

#: For each kind of registration, the hook that returns it.
KINDS: Final = {
    "target": "sage_register_targets",
    "threading strategy": "sage_register_threading_strategies",
    "load balancer": "sage_register_load_balancers",
    "monitor": "sage_register_monitors",
    "autoscaler": "sage_register_autoscalers",
    "extension": "sage_register_extensions",
    "file reader": "sage_register_readers",
}

_ID: Final = re.compile(r"[a-z][a-z0-9_]*")


class Hooks:
    """
    Calls the hooks of the plugins of one registry.

    A plugin that fails does not affect the others. Hooks that this version does not know are skipped.
    """

    def __init__(self) -> None:
        self._manager = _Manager(PROJECT)
        self._manager.add_hookspecs(hookspecs)

    def add(self, plugin: Plugin, module: Any) -> Offer:
        """
        Return what *plugin* offers; set its `hooks` and `unknown_hooks`.

        Raises:
            PluginError: The plugin breaks the contract. It is ignored.
        """
        manager = self._manager
        manager.unknown.clear()
        known = manager.is_registered(module)
        try:
            # The module makes the name unique: entry points of two distributions may have the same name, and reading
            # the names of the distributions would read a file for each.
            manager.register(module, f"{plugin.name} ({plugin.module})")
        except Exception as error:
            if not known and manager.is_registered(module):
                manager.unregister(module)
            from sage_plugins.errors import line_of  # imported late here and below, because only faults need it

            raise _fault(plugin, f"does not fit the hooks of this version: {line_of(error)}") from error
        plugin.hooks = tuple(sorted(caller.name for caller in manager.get_hookcallers(module) or ()))
        plugin.unknown_hooks = tuple(sorted(manager.unknown))
        return Offer(plugin, lambda hook: self._own(module, hook) if hook in plugin.hooks else [[]])

    def _own(self, module: Any, hook: str) -> list[Any]:
        """Call only this plugin's implementations: a plugin that raises must not hide the results of others."""
        others = [known for known in self._manager.get_plugins() if known is not module]
        results: list[Any] = self._manager.subset_hook_caller(hook, others)()
        return results


class _Manager(pluggy.PluginManager):
    def __init__(self, project: str) -> None:
        super().__init__(project)
        self.unknown: list[str] = []

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> pluggy.HookimplOpts | None:
        if isinstance(plugin, ModuleType) and not isinstance(vars(plugin).get(name), FunctionType):
            return None  # most names of a module are imported classes, and pluggy is slow to inspect them
        options = super().parse_hookimpl_opts(plugin, name)
        if options is None or hasattr(hookspecs, options.get("specname") or name):
            return options
        if not options["optionalhook"]:
            self.unknown.append(name)
        return None


class Offer:
    """
    The checked results of one plugin's hooks.

    Attributes:
        registrations: The registrations, each with its kind.
        commands: The commands for the command line.
        checks: The checks for `sage-deploy doctor`.
    """

    def __init__(self, plugin: Plugin, call: Callable[[str], list[Any]]) -> None:
        """
        Call the plugin's hooks and check the results.

        Args:
            plugin: The plugin.
            call: Calls the plugin's implementations of a hook and returns their results.

        Raises:
            PluginError: A hook returned something wrong.
        """
        self._plugin = plugin
        self._call = call
        self.registrations = [
            (kind, registration)
            for kind, hook in KINDS.items()
            for registration in self._results(hook, lambda each: isinstance(each, Registration), "not a Registration")
        ]
        for kind, registration in self.registrations:
            self._check(kind, registration)
        keys = [(kind, registration.id) for kind, registration in self.registrations]
        for kind, id in keys:
            if keys.count((kind, id)) > 1:
                raise _fault(plugin, f"registers the {kind} {id!r} twice")
        self._check_agreement()
        self.commands: list[Command] = self._results(
            "sage_register_commands", lambda each: isinstance(each, Command), "not a Command"
        )
        self.checks: list[Callable[[], Iterable[Finding]]] = self._results(
            "sage_register_checks", callable, "which cannot be called"
        )

    def _results(self, hook: str, is_right: Callable[[Any], bool], wrong: str) -> list[Any]:
        returned = self._call(hook) or [None]  # pluggy leaves out None
        for results in returned:
            if not isinstance(results, Iterable):
                raise _fault(self._plugin, f"has a {hook} that returned {results!r}: it must return a list")
        found = [each for results in returned for each in results]
        for each in found:
            if not is_right(each):
                raise _fault(self._plugin, f"has a {hook} that returned {each!r}, {wrong}")
        return found

    def _check(self, kind: str, registration: Registration) -> None:
        if registration.api != API:
            newer = "newer" if registration.api > API else "older"
            what = (
                f"is written for version {registration.api} of the plugin contract, and this sage-deploy knows version"
            )
            fix = f"install a version of the plugin for it, or a {newer} sage-deploy"
            raise _fault(self._plugin, f"{what} {API}: {fix}")
        if not isinstance(registration.id, str) or not _ID.fullmatch(registration.id):
            rule = "an ID begins with a small letter and has small letters, digits and underscores only"
            raise _fault(self._plugin, f"registers the {kind} {registration.id!r}: {rule}")

    def _check_agreement(self) -> None:
        """Check that all registrations with the same environment options declare them in the same way."""
        known: dict[str, EnvironmentOptions] = {}
        for shared in filter(None, (registration.environment_options for _, registration in self.registrations)):
            if known.setdefault(shared.id, shared) != shared:
                what = f"registers two different environment_options {shared.id!r}: give all registrations the same"
                raise _fault(self._plugin, what)


def _fault(plugin: Plugin, what: str) -> PluginError:
    """Return the error for a plugin that breaks the contract; *what* continues a sentence that begins with its name."""
    from sage_plugins.errors import PluginError

    return PluginError(f"plugin {plugin.name!r} from {plugin.source} {what}")
