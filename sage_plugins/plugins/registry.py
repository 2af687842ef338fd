"""
The registry: finds plugins, and looks up what they offer by ID.

A registry is an object, not a module's global: each environment has one, and a test makes its own. Discovery reads the
entry points of the group `sage_deploy` and imports their modules, which must be cheap to import. If two plugins offer
the same ID, the registry raises an error instead of choosing one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sage_plugins.values import EnvironmentOptions, Registration

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from sage_plugins.errors import PluginConflictError, UnknownPluginError
    from sage_plugins.findings import Finding
    from sage_plugins.values import Command

from sage_plugins.plugins.discovery import DISABLED_VARIABLE, Failure, Plugin, disabled_names, installed
from sage_plugins.plugins.hook_calls import KINDS, Hooks

__all__ = ["Registered", "RegisteredOptions", "Registry"]


class Registered(NamedTuple):
    """
    A registration and the plugin that made it.

    Attributes:
        registration: The registration.
        plugin: The plugin.
    """

    registration: Registration
    plugin: Plugin


class RegisteredOptions(NamedTuple):
    """
    Options for a whole environment, and the plugin that reads them.

    Attributes:
        registration: Declaration of the options.
        plugin: The plugin.
    """

    registration: EnvironmentOptions
    plugin: Plugin


class Registry:
    """
    The plugins of a process and what they offer, by kind and ID.

    Does not change after it is made, so it is safe from any thread.

    Attributes:
        plugins: The plugins that were loaded.
        failures: The plugins that failed to load, with the reason. Only services that use them fail.
        disabled: The plugins that were not imported, because `SAGE_DEPLOY_DISABLED_PLUGINS` names them.
        checks: The plugins' checks for `sage-deploy doctor`, each with its plugin.
        commands: The plugins' commands, each with its plugin.
    """

    plugins: tuple[Plugin, ...]
    failures: tuple[Failure, ...]
    disabled: tuple[Plugin, ...]
    checks: tuple[tuple[Plugin, Callable[[], Iterable[Finding]]], ...]
    commands: tuple[tuple[Plugin, Command], ...]

    def __init__(
        self,
        loaded: Iterable[tuple[Plugin, Any]],
        failures: Iterable[Failure] = (),
        disabled: Iterable[Plugin] = (),
    ) -> None:
        """Collect what *loaded* plugins register. Use `discover` or `of` instead."""
        hooks = Hooks()
        self._offered: dict[tuple[str, str], list[Registered]] = {}
        self._environment: dict[str, list[RegisteredOptions]] = {}
        plugins: list[Plugin] = []
        failed = list(failures)
        checks: list[tuple[Plugin, Callable[[], Iterable[Finding]]]] = []
        commands: list[tuple[Plugin, Command]] = []
        for plugin, module in loaded:
            try:
                offer = hooks.add(plugin, module)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - services that do not use it must still run
                failed.append(Failure(plugin, error))
                continue
            plugins.append(plugin)
            checks += ((plugin, check) for check in offer.checks)
            commands += ((plugin, command) for command in offer.commands)
            for kind, registration in offer.registrations:
                self._add(kind, Registered(registration, plugin))
        self.plugins = tuple(plugins)
        self.failures = tuple(failed)
        self.disabled = tuple(disabled)
        self.checks = tuple(checks)
        self.commands = tuple(commands)

    @classmethod
    def discover(cls, wanted: Callable[[Plugin], bool] = lambda _: True) -> Registry:
        """
        Return a registry of the installed plugins for which *wanted* is true.

        Entry points named in the environment variable `SAGE_DEPLOY_DISABLED_PLUGINS` (separated by commas) are left
        out.
        """
        names = disabled_names()
        disabled: list[Plugin] = []
        loaded: list[tuple[Plugin, Any]] = []
        failures: list[Failure] = []
        for plugin in sorted(installed(), key=lambda each: (each.name, each.module)):
            if plugin.name in names:
                disabled.append(plugin)
                continue
            if not wanted(plugin):
                continue
            try:
                loaded.append((plugin, plugin.load()))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - importing a plugin may raise anything
                failures.append(Failure(plugin, error))
        return cls(loaded, failures, disabled)

    @classmethod
    def of(cls, *plugins: Any) -> Registry:
        """
        Return a registry of these plugin modules or objects, without installed plugins; for tests.

        Raises:
            PluginError: A plugin breaks the contract.
        """
        loaded = []
        for plugin in plugins:
            name = getattr(plugin, "__name__", type(plugin).__name__)
            loaded.append((Plugin(name, name), plugin))
        registry = cls(loaded)
        if registry.failures:
            from sage_plugins.errors import PluginError  # imported late here and below, because only failures need it

            failure = registry.failures[0]
            raise (
                failure.error if isinstance(failure.error, PluginError) else PluginError(str(failure))
            ) from failure.error
        return registry

    def _add(self, kind: str, entry: Registered) -> None:
        self._offered.setdefault((kind, entry.registration.id), []).append(entry)
        registration = entry.registration
        shared = registration.environment_options
        if kind == "extension" and registration.options is not None:  # its options are for the whole environment
            shared = EnvironmentOptions(registration.id, registration.options, registration.summary)
        if shared is not None:
            readers = self._environment.setdefault(shared.id, [])
            if all(reader.plugin is not entry.plugin for reader in readers):
                readers.append(RegisteredOptions(shared, entry.plugin))

    def find(self, kind: str, id: str, *, service: str = "") -> Registered:
        """
        Return what is registered as *id*.

        Args:
            kind: A key of `KINDS`, such as `"target"`.
            id: The ID from the configuration. If two distributions offer the ID, put the name of one and a colon before
                it: `"acme-balancers:round_robin"`.
            service: Name of the service, for the message.

        Raises:
            UnknownPluginError: No plugin offers it. The message says what is installed, the nearest spelling, which
                extra installs it, and which plugins failed to load.
            PluginConflictError: Two plugins offer it, or two plugins read its options for a whole environment.
        """
        source, _, bare = id.rpartition(":")
        found = [
            entry
            for entry in self._offered.get((kind, bare), ())
            if not source or source == (entry.plugin.distribution or entry.plugin.module)
        ]
        if not found:
            raise self._unknown(kind, id, self.ids(kind), service)
        if len(found) > 1:
            names = [f"'{entry.plugin.distribution or entry.plugin.module}:{bare}'" for entry in found]
            raise _conflict(f"{kind} {id!r} is offered by", kind, id, found, f"name one of {', '.join(names)}")
        shared = found[0].registration.environment_options
        readers = () if shared is None else self._environment[shared.id]
        if shared is not None and len(readers) > 1:
            raise _conflict(f"options {shared.id!r} of a whole environment are read by", kind, id, readers)
        return found[0]

    def find_all(self, id: str) -> tuple[tuple[str, Registered], ...]:
        """
        Return everything that is registered as *id*, of any kind, each with its kind.

        Raises:
            UnknownPluginError: No plugin offers it; as for `find`.
        """
        bare = id.rpartition(":")[2]
        found = tuple(
            (kind, entry)
            for kind in KINDS
            for entry in self._offered.get((kind, bare), ())
            if id in {bare, f"{entry.plugin.distribution or entry.plugin.module}:{bare}"}
        )
        if not found:
            raise self._unknown("plugin ID", id, tuple(sorted({id for _, id in self._offered})), "")
        return found

    def _unknown(self, kind: str, id: str, ids: tuple[str, ...], service: str) -> UnknownPluginError:
        from sage_plugins.errors import UnknownPluginError
        from sage_plugins.values import Problem

        what = [f"unknown {kind} {id!r}", f"installed: {', '.join(ids) or 'none'}"]
        failures = [str(failure) for failure in self.failures]
        hint = self.advice(kind, id, ids)
        lines = [*what, *([hint] if hint else []), *failures]
        if service:
            lines[0] = f"service {service!r}: {lines[0]}"
        fix = "name one that is installed" if ids else "install a plugin that has one"
        problem = Problem("E207", "", "; ".join([*what, *failures]), hint or fix)
        return UnknownPluginError("\n  ".join(lines), kind=kind, id=id, problems=[problem])

    def advice(self, kind: str, id: str, ids: Collection[str]) -> str:
        """
        Return what to do about the unknown *id*; empty if no advice is known.

        Args:
            kind: A key of `KINDS`, `"options"` for options of a whole environment, or anything else for any kind.
            id: The unknown ID.
            ids: The known IDs.
        """
        from sage_plugins.plugins.advice import advice

        own = [
            (entry.plugin, each)
            for (found, each), entry in self.entries().items()
            if found == kind or kind not in KINDS
        ]
        return advice(kind, id, ids, own=own, failures=self.failures, disabled=self.disabled)

    def ids(self, kind: str) -> tuple[str, ...]:
        """Return the IDs of *kind* that a configuration can name, in alphabetical order."""
        return tuple(sorted(id for known, id in self.entries() if known == kind))

    def entries(self) -> Mapping[tuple[str, str], Registered]:
        """
        Return everything that is registered, by kind and by the ID that a configuration can name.

        If several plugins offer an ID, the configuration must name `"distribution:id"`.
        """
        return {
            (kind, id if len(found) == 1 else f"{entry.plugin.distribution or entry.plugin.module}:{id}"): entry
            for (kind, id), found in self._offered.items()
            for entry in found
        }

    def environment_options(self) -> Mapping[str, RegisteredOptions]:
        """Return the options for a whole environment that plugins read, by ID."""
        return {id: readers[0] for id, readers in self._environment.items()}


def _conflict(
    what: str, kind: str, id: str, found: Sequence[Registered | RegisteredOptions], way_out: str = ""
) -> PluginConflictError:
    from sage_plugins.errors import PluginConflictError
    from sage_plugins.values import Problem

    whose = " and by ".join(f"{each.plugin.source} (plugin {each.plugin.name!r})" for each in found)
    other = f"uninstall one, or set {DISABLED_VARIABLE}={found[-1].plugin.name}"
    fix = f"{way_out}, {other}" if way_out else other
    problem = Problem("E207", "", f"{what} {whose}", fix)
    return PluginConflictError(f"{what} {whose}; {fix}", kind=kind, id=id, problems=[problem])
