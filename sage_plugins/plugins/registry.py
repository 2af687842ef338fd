"""
Finding plugins and looking up what they offer.

A registry is an object, never a module's global: an environment has one, a test makes its own. Discovery reads the
entry points of the group `sage_deploy` and imports their modules, which are light by contract. Names and IDs are
unique: of two that collide none is chosen in silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pluggy

from sage_plugins import hookspecs
from sage_plugins.errors import PluginConflictError, PluginError, UnknownPluginError
from sage_plugins.hookspecs import PROJECT
from sage_plugins.values import Problem, Registration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from importlib import metadata

    from sage_plugins.findings import Finding
    from sage_plugins.values import EnvironmentOptions

from sage_plugins.plugins.discovery import DISABLED_VARIABLE, Failure, Plugin, disabled_names, installed
from sage_plugins.plugins.hook_calls import KINDS, checks_of, registrations_of

__all__ = ["Registered", "RegisteredOptions", "Registry", "how_to_install"]


#: IDs of first-party plugins that may not be installed: the extra that brings them.
_EXTRAS: Final = {
    "remote_any": "ray",
    "remote_specific": "ray",
    "cluster_group": "ray",
    "prometheus": "prometheus",
    "ray": "ray",  # options for a whole environment
}


class Registered(NamedTuple):
    """
    A registration and the plugin that made it.

    Attributes:
        registration: What was registered.
        plugin: By whom.
    """

    registration: Registration
    plugin: Plugin


class RegisteredOptions(NamedTuple):
    """
    Options for a whole environment and the plugin that reads them.

    Attributes:
        registration: What they are.
        plugin: Who reads them.
    """

    registration: EnvironmentOptions
    plugin: Plugin


class Registry:
    """
    The plugins of a process and what they offer, by kind and ID.

    Read-only once made, so safe from any thread.

    Attributes:
        plugins: The plugins that were loaded.
        failures: Those that were not, with the reason; they hurt only who needs them.
        checks: What they have `sage-deploy doctor` look at, each with its plugin.
    """

    plugins: tuple[Plugin, ...]
    failures: tuple[Failure, ...]
    checks: tuple[tuple[Plugin, Callable[[], Iterable[Finding]]], ...]

    def __init__(self, loaded: Iterable[tuple[Plugin, Any]], failures: Iterable[Failure] = ()) -> None:
        """
        Collect what *loaded* plugins register; use `discover` or `of`.

        Raises:
            PluginConflictError: Two plugins offer the same ID, or read options of the same ID for a whole environment.
        """
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(hookspecs)
        self._table: dict[tuple[str, str], Registered] = {}
        self._environment: dict[str, RegisteredOptions] = {}
        plugins: list[Plugin] = []
        failed = list(failures)
        checks: list[tuple[Plugin, Callable[[], Iterable[Finding]]]] = []
        for plugin, module in loaded:
            try:
                found = registrations_of(manager, plugin, module)
                offered = checks_of(manager, plugin, module)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - it must not stop services that do not use it
                failed.append(Failure(plugin, error))
                continue
            plugins.append(plugin)
            checks += ((plugin, check) for check in offered)
            for kind, registration in found:
                self._add(kind, Registered(registration, plugin))
        self.plugins = tuple(plugins)
        self.failures = tuple(failed)
        self.checks = tuple(checks)

    @classmethod
    def discover(cls) -> Registry:
        """
        The registry of the installed plugins.

        Entry points named in the variable `SAGE_DEPLOY_DISABLED_PLUGINS` (separated by commas) are left out.

        Raises:
            PluginConflictError: Two distributions have an entry point of the same name, or two plugins offer the same
                ID.
        """
        disabled = disabled_names()
        points: dict[str, tuple[Plugin, metadata.EntryPoint]] = {}
        for plugin, point in installed():
            if plugin.name in disabled:
                continue
            known = points.setdefault(plugin.name, (plugin, point))[0]
            if known is not plugin:
                msg = (
                    f"two plugins are called {plugin.name!r}: {known.module} from {known.source} and {plugin.module} "
                    f"from {plugin.source}; uninstall one, or set {DISABLED_VARIABLE}={plugin.name} to do without both"
                )
                raise PluginConflictError(msg)
        loaded: list[tuple[Plugin, Any]] = []
        failures: list[Failure] = []
        for name in sorted(points):
            plugin, point = points[name]
            try:
                loaded.append((plugin, point.load()))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - importing a stranger's module may do anything
                failures.append(Failure(plugin, error))
        return cls(loaded, failures)

    @classmethod
    def of(cls, *plugins: Any) -> Registry:
        """
        A registry of these plugin modules or objects, without any installed ones; for tests.

        Raises:
            PluginError: One of them breaks the contract.
            PluginConflictError: Two of them offer the same ID.
        """
        loaded = []
        for plugin in plugins:
            name = getattr(plugin, "__name__", type(plugin).__name__)
            loaded.append((Plugin(name, name), plugin))
        registry = cls(loaded)
        if registry.failures:
            failure = registry.failures[0]
            raise (
                failure.error if isinstance(failure.error, PluginError) else PluginError(str(failure))
            ) from failure.error
        return registry

    def _add(self, kind: str, entry: Registered) -> None:
        known = self._table.setdefault((kind, entry.registration.id), entry)
        if known is not entry:
            msg = (
                f"{kind} {entry.registration.id!r} is offered by {known.plugin.source} (plugin {known.plugin.name!r}) "
                f"and by {entry.plugin.source} (plugin {entry.plugin.name!r}); uninstall one, or set "
                f"{DISABLED_VARIABLE}={entry.plugin.name}"
            )
            raise PluginConflictError(msg)
        shared = entry.registration.environment_options
        if shared is None:
            return
        reader = self._environment.setdefault(shared.id, RegisteredOptions(shared, entry.plugin))
        if reader.plugin is not entry.plugin:
            msg = (
                f"options {shared.id!r} of a whole environment are read by {reader.plugin.source} (plugin "
                f"{reader.plugin.name!r}) and by {entry.plugin.source} (plugin {entry.plugin.name!r}); uninstall one, "
                f"or set {DISABLED_VARIABLE}={entry.plugin.name}"
            )
            raise PluginConflictError(msg)

    def find(self, kind: str, id: str, *, service: str = "") -> Registered:
        """
        What is registered as *id*.

        Args:
            kind: `"target"`, `"threading strategy"`, `"load balancer"` or `"monitor"`.
            id: What the configuration names.
            service: For whom, for the message.

        Raises:
            UnknownPluginError: Nothing is; the message says what is installed, the nearest spelling, which extra brings
                it, and which plugins failed to load.
        """
        entry = self._table.get((kind, id))
        if entry is not None:
            return entry
        raise self._unknown(kind, id, self.ids(kind), service)

    def find_all(self, id: str) -> tuple[tuple[str, Registered], ...]:
        """
        What is registered as *id* for any kind, with the kind.

        Raises:
            UnknownPluginError: Nothing is; as for `find`.
        """
        found = tuple((kind, self._table[kind, id]) for kind in KINDS if (kind, id) in self._table)
        if not found:
            raise self._unknown("plugin ID", id, tuple(sorted({id for _, id in self._table})), "")
        return found

    def _unknown(self, kind: str, id: str, ids: tuple[str, ...], service: str) -> UnknownPluginError:
        from sage_plugins.texts import did_you_mean

        near = did_you_mean(id, ids)
        what = [f"unknown {kind} {id!r}", f"installed: {', '.join(ids) or 'none'}"]
        failures = [str(failure) for failure in self.failures]
        hints = []
        if near:
            hints.append(f"did you mean {near!r}?")
        if id in _EXTRAS:
            hints.append(how_to_install(id))
        lines = [*what, *hints, *failures]
        if service:
            lines[0] = f"service {service!r}: {lines[0]}"
        fix = hints[-1] if hints else "install the plugin that has it: sage-deploy plugins list"
        problem = Problem("E207", "", "; ".join([*what, *failures]), fix)
        return UnknownPluginError("\n  ".join(lines), kind=kind, id=id, problems=[problem])

    def ids(self, kind: str) -> tuple[str, ...]:
        """The IDs registered for *kind*, in alphabetical order."""
        return tuple(sorted(id for known, id in self._table if known == kind))

    def entries(self) -> Mapping[tuple[str, str], Registered]:
        """Everything registered, by kind and ID."""
        return dict(self._table)

    def environment_options(self) -> Mapping[str, RegisteredOptions]:
        """The options for a whole environment that any plugin reads, by ID."""
        return dict(self._environment)


def how_to_install(id: str) -> str:
    """What to do to get what is called *id*; empty if nothing of ours is."""
    return f"install it with: pip install 'sage-deploy[{_EXTRAS[id]}]'" if id in _EXTRAS else ""
