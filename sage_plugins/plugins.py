"""
Finding plugins and looking up what they offer.

A registry is an object, never a module's global: an environment has one, a test makes its own. Discovery reads the
entry points of the group `sage_deploy` and imports their modules, which are light by contract. Names and IDs are
unique: of two that collide none is chosen in silence.
"""

from __future__ import annotations

import os
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

import attrs
import pluggy

from sage_plugins import hookspecs
from sage_plugins.errors import PluginConflictError, PluginError, UnknownPluginError
from sage_plugins.hookspecs import PROJECT
from sage_plugins.values import Registration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["KINDS", "Failure", "Plugin", "Registered", "Registry"]

#: Variable with the names of entry points that are not loaded, separated by commas.
DISABLED_VARIABLE: Final = "SAGE_DEPLOY_DISABLED_PLUGINS"

#: What can be registered, by the hook that registers it.
KINDS: Final = {
    "target": "sage_register_targets",
    "threading strategy": "sage_register_threading_strategies",
    "load balancer": "sage_register_load_balancers",
    "monitor": "sage_register_monitors",
}

#: IDs of first-party plugins that may not be installed: how to get them.
_EXTRAS: Final = {
    "remote_any": "ray",
    "remote_specific": "ray",
    "cluster_group": "ray",
    "prometheus": "prometheus",
}


@attrs.frozen
class Plugin:
    """
    A plugin that was loaded.

    Attributes:
        name: Name of its entry point.
        module: What the entry point names.
        distribution: Name of the distribution that brings it, or "" for one that was given as an object.
        version: Version of that distribution.
    """

    name: str
    module: str
    distribution: str
    version: str

    @property
    def source(self) -> str:
        """`"acme-gpu 1.2"`, or the module for a plugin given as an object."""
        return f"{self.distribution} {self.version}" if self.distribution else self.module


@attrs.frozen
class Failure:
    """
    A plugin that did not load.

    Attributes:
        plugin: Which.
        error: Why.
    """

    plugin: Plugin
    error: BaseException

    def __str__(self) -> str:
        """`plugin 'gpu' from acme-gpu 1.2 (acme_gpu) failed to load: ModuleNotFoundError: No module named 'pynvml'`."""
        plugin = self.plugin
        return (
            f"plugin {plugin.name!r} from {plugin.source} ({plugin.module}) failed to load: "
            f"{type(self.error).__name__}: {self.error}"
        )


@attrs.frozen
class Registered:
    """
    A registration and the plugin that made it.

    Attributes:
        registration: What was registered.
        plugin: By whom.
    """

    registration: Registration
    plugin: Plugin


class Registry:
    """
    The plugins of a process and what they offer, by kind and ID.

    Read-only once made, so safe from any thread.

    Attributes:
        plugins: The plugins that were loaded.
        failures: Those that were not, with the reason; they hurt only who needs them.
    """

    plugins: tuple[Plugin, ...]
    failures: tuple[Failure, ...]

    def __init__(self, loaded: Iterable[tuple[Plugin, Any]], failures: Iterable[Failure] = ()) -> None:
        """
        Collect what *loaded* plugins register; use `discover` or `of`.

        Raises:
            PluginConflictError: Two plugins offer the same ID.
        """
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(hookspecs)
        self._table: dict[tuple[str, str], Registered] = {}
        plugins: list[Plugin] = []
        failed = list(failures)
        for plugin, module in loaded:
            try:
                found = _register(manager, plugin, module)
            except Exception as error:  # noqa: BLE001 - one plugin's fault must not stop services that do not use it
                failed.append(Failure(plugin, error))
                continue
            plugins.append(plugin)
            for kind, registration in found:
                self._add(kind, Registered(registration, plugin))
        self.plugins = tuple(plugins)
        self.failures = tuple(failed)

    @classmethod
    def discover(cls) -> Registry:
        """
        The registry of the installed plugins.

        Entry points named in the variable `SAGE_DEPLOY_DISABLED_PLUGINS` (separated by commas) are left out.

        Raises:
            PluginConflictError: Two distributions have an entry point of the same name, or two plugins offer the same
                ID.
        """
        disabled = {name.strip() for name in os.environ.get(DISABLED_VARIABLE, "").split(",")}
        points: dict[str, tuple[Plugin, metadata.EntryPoint]] = {}
        for point in metadata.entry_points(group=PROJECT):
            if point.name in disabled:
                continue
            plugin = _described(point)
            known = points.setdefault(point.name, (plugin, point))[0]
            if (known.distribution, known.module) != (plugin.distribution, plugin.module):
                msg = (
                    f"two plugins are called {point.name!r}: {known.module} from {known.source} and {plugin.module} "
                    f"from {plugin.source}; uninstall one, or set {DISABLED_VARIABLE}={point.name} to do without both"
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
            loaded.append((Plugin(name, name, "", ""), plugin))
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
        from sage_plugins.spelling import did_you_mean

        ids = self.ids(kind)
        near = did_you_mean(id, ids)
        lines = [
            (f"service {service!r}: " if service else "") + f"unknown {kind} {id!r}",
            f"installed: {', '.join(ids) or 'none'}",
        ]
        if near:
            lines.append(f"did you mean {near!r}?")
        if id in _EXTRAS:
            lines.append(f"install it with: pip install 'sage-deploy[{_EXTRAS[id]}]'")
        lines.extend(str(failure) for failure in self.failures)
        raise UnknownPluginError("\n  ".join(lines), kind=kind, id=id)

    def ids(self, kind: str) -> tuple[str, ...]:
        """The IDs registered for *kind*, in alphabetical order."""
        return tuple(sorted(id for known, id in self._table if known == kind))

    def entries(self) -> Mapping[tuple[str, str], Registered]:
        """Everything registered, by kind and ID."""
        return dict(self._table)


def _described(point: metadata.EntryPoint) -> Plugin:
    distribution = point.dist
    if distribution is None:
        return Plugin(point.name, point.value, "", "")
    return Plugin(point.name, point.value, distribution.name, distribution.version)


def _register(manager: pluggy.PluginManager, plugin: Plugin, module: Any) -> list[tuple[str, Registration]]:
    """Check the plugin's hooks against the specifications and collect its registrations."""
    try:
        manager.register(module, plugin.name)
        manager.check_pending()
    except Exception as error:
        if manager.get_plugin(plugin.name) is not None:
            manager.unregister(module)
        msg = f"plugin {plugin.name!r} from {plugin.source} does not fit the hooks of this version: {error}"
        raise PluginError(msg) from error
    found: list[tuple[str, Registration]] = []
    for kind, hook in KINDS.items():
        # Only this plugin's own implementations: one that raises must not hide the others'.
        others = [known for known in manager.get_plugins() if known is not module]
        for registrations in manager.subset_hook_caller(hook, others)():
            for registration in registrations:
                if not isinstance(registration, Registration):
                    msg = (
                        f"{hook} of plugin {plugin.name!r} from {plugin.source} returned "
                        f"{registration!r}, not a Registration"
                    )
                    raise PluginError(msg)
                found.append((kind, registration))
    return found
