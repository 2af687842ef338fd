"""
Finding plugins and looking up what they offer.

A registry is an object, never a module's global: an environment has one, a test makes its own. Discovery reads the
entry points of the group `sage_deploy` and imports their modules, which are light by contract. Names and IDs are
unique: of two that collide none is chosen in silence.
"""

from __future__ import annotations

import os
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pluggy

from sage_plugins import hookspecs
from sage_plugins.errors import PluginConflictError, PluginError, UnknownPluginError, line_of
from sage_plugins.hookspecs import PROJECT
from sage_plugins.values import Problem, Registration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sage_plugins.findings import Finding
    from sage_plugins.values import EnvironmentOptions

__all__ = [
    "DISABLED_VARIABLE",
    "KINDS",
    "Failure",
    "Plugin",
    "Registered",
    "RegisteredOptions",
    "Registry",
    "disabled_names",
    "how_to_install",
    "installed",
]

#: Variable with the names of entry points that are not loaded, separated by commas.
DISABLED_VARIABLE: Final = "SAGE_DEPLOY_DISABLED_PLUGINS"

#: What can be registered, by the hook that registers it.
KINDS: Final = {
    "target": "sage_register_targets",
    "threading strategy": "sage_register_threading_strategies",
    "load balancer": "sage_register_load_balancers",
    "monitor": "sage_register_monitors",
}

#: IDs of first-party plugins that may not be installed: the extra that brings them.
_EXTRAS: Final = {
    "remote_any": "ray",
    "remote_specific": "ray",
    "cluster_group": "ray",
    "prometheus": "prometheus",
    "ray": "ray",  # options for a whole environment
}


class Plugin:
    """
    A plugin that was found.

    Attributes:
        name: Name of its entry point.
        module: What the entry point names.
        hooks: Names of the hooks that it implements; empty until it was loaded.
    """

    def __init__(self, name: str, module: str, dist: metadata.Distribution | None = None) -> None:
        """
        Describe a plugin.

        Args:
            name: Name of its entry point.
            module: What the entry point names.
            dist: The distribution that brings it, or None for a plugin that was given as an object.
        """
        self.name = name
        self.module = module
        self.hooks: tuple[str, ...] = ()
        self._dist = dist

    @cached_property
    def distribution(self) -> str:
        """Name of the distribution that brings it, "" if none does. Read when first asked for: that takes a file."""
        return "" if self._dist is None else self._dist.name

    @cached_property
    def version(self) -> str:
        """Version of that distribution."""
        return "" if self._dist is None else self._dist.version

    @property
    def source(self) -> str:
        """`"acme-gpu 1.2"`, or the module for a plugin given as an object."""
        return f"{self.distribution} {self.version}" if self.distribution else self.module

    def __getstate__(self) -> dict[str, Any]:
        """The distribution's path means nothing elsewhere; its name and version do."""
        return {
            "name": self.name,
            "module": self.module,
            "hooks": self.hooks,
            "_dist": None,
            "distribution": self.distribution,
            "version": self.version,
        }

    def __repr__(self) -> str:
        """Name and module."""
        return f"<Plugin {self.name!r} {self.module}>"


class Failure(NamedTuple):
    """
    A plugin that did not load.

    Attributes:
        plugin: Which.
        error: Why.
    """

    plugin: Plugin
    error: BaseException

    @property
    def reason(self) -> str:
        """Why, on one line."""
        return line_of(self.error)

    def __str__(self) -> str:
        """`plugin 'gpu' from acme-gpu 1.2 (acme_gpu) failed to load: ModuleNotFoundError: No module named 'pynvml'`."""
        plugin = self.plugin
        return f"plugin {plugin.name!r} from {plugin.source} ({plugin.module}) failed to load: {self.reason}"


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
                found = _register(manager, plugin, module)
                offered = _checks(manager, plugin, module)
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


def disabled_names() -> frozenset[str]:
    """The names of entry points that `SAGE_DEPLOY_DISABLED_PLUGINS` leaves out, whether there are such or not."""
    names = (name.strip() for name in os.environ.get(DISABLED_VARIABLE, "").split(","))
    return frozenset(name for name in names if name)


def installed() -> list[tuple[Plugin, metadata.EntryPoint]]:
    """The installed plugins with their entry points, the disabled ones too; none is imported."""
    found: list[tuple[Plugin, metadata.EntryPoint]] = []
    for point in metadata.entry_points(group=PROJECT):
        plugin = Plugin(point.name, point.value, point.dist)
        # An editable install may be listed twice, under the same distribution.
        if not any(
            known.name == plugin.name and (known.distribution, known.module) == (plugin.distribution, plugin.module)
            for known, _ in found
        ):
            found.append((plugin, point))
    return found


def _register(manager: pluggy.PluginManager, plugin: Plugin, module: Any) -> list[tuple[str, Registration]]:
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


def _checks(manager: pluggy.PluginManager, plugin: Plugin, module: Any) -> list[Callable[[], Iterable[Finding]]]:
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
