"""Checks installed plugins against each rule of the contract that can be checked without a service."""

from __future__ import annotations

import inspect
import pickle
from collections import defaultdict
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_deploy_cli.machine.members import faults_of, interfaces_of
from sage_deploy_cli.machine.plugin_imports import heavy_imports
from sage_plugins import hookspecs
from sage_plugins.config.service_config import ServiceDeploymentConfig
from sage_plugins.config.structure import structure
from sage_plugins.errors import SageDeployError, line_of
from sage_plugins.findings import Finding
from sage_plugins.plugins.discovery import DISABLED_VARIABLE, disabled_names, installed
from sage_plugins.plugins.listing import unknown_disabled
from sage_plugins.plugins.registry import Registry
from sage_plugins.texts import did_you_mean
from sage_plugins.values import Explanation, Problem, Where

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from sage_plugins.plugins.discovery import Plugin
    from sage_plugins.values import Registration

__all__ = ["Inspection", "PluginReport", "check_plugins"]

#: Returned in place of default options if some options have no default.
_REQUIRED: Final = object()

#: A configuration that names an ID, by the kind of plugin.
_NAMED: Final[Mapping[str, Callable[[str], dict[str, Any]]]] = {
    "target": lambda id: {"target": id},
    "threading strategy": lambda id: {"threading_strategy": id},
    "load balancer": lambda id: {"load_balancing": True, "replicas": 2, "load_balancer": id},
    "monitor": lambda id: {"monitors": [id]},
    "autoscaler": lambda _: {},
    "extension": lambda _: {},
    "file reader": lambda _: {},
}


@attrs.frozen
class PluginReport:
    """
    The result of checking installed plugins.

    Attributes:
        plugins: Number of checked plugins.
        registrations: Number of IDs that they offer.
        findings: Problems, by plugin. Empty if all plugins keep the contract. Warnings are about the surroundings.
    """

    plugins: int
    registrations: int
    findings: tuple[Finding, ...]


def check_plugins(only: Collection[str] | None = None) -> PluginReport:
    """
    Load every installed plugin that is not disabled, each on its own, and check what it offers.

    This starts one process to see what discovery imports. If that is too much, one more for each plugin.

    Args:
        only: Names of the plugins to report on. None: all.
    """
    findings: list[Finding] = []
    plugins: list[Plugin] = []
    offers: Mapping[tuple[str, str], list[Plugin]] = defaultdict(list)
    for plugin in installed():
        if plugin.name in disabled_names():
            continue
        wanted = only is None or plugin.name in only
        if wanted:
            plugins.append(plugin)
        loaded = _load(plugin)
        if isinstance(loaded, Finding):
            findings += [loaded] * wanted
            continue
        for kind, id in loaded.entries():
            offers[kind, id].append(plugin)
        if wanted:
            findings += (*_unmarked_hooks(plugin), *_unknown_hooks(plugin))
            for (kind, _), entry in loaded.entries().items():
                findings += Inspection(plugin.source, kind, entry.registration).findings()
    findings += _unknown_names()
    offers = {what: by for what, by in offers.items() if any(plugin in plugins for plugin in by)}
    findings += _conflicts(offers)
    findings += _heavy(plugins)
    return PluginReport(len(plugins), sum(map(len, offers.values())), tuple(findings))


def _load(plugin: Plugin) -> Registry | Finding:
    """Return a registry with this plugin alone, or the finding that says why it does not load."""
    try:
        registry = Registry([(plugin, plugin.load())])
    except (Exception, SystemExit) as error:  # noqa: BLE001 - importing other people's modules may raise anything
        return _unloaded(plugin, error)
    return _unloaded(plugin, registry.failures[0].error) if registry.failures else registry


def _unloaded(plugin: Plugin, error: BaseException) -> Finding:
    correct = "install what it needs" if isinstance(error, ImportError) else "correct it"
    fix = f"{correct}, uninstall {plugin.distribution or plugin.module}, or set {DISABLED_VARIABLE}={plugin.name}"
    found = f"plugin '{plugin.name}' does not load: {line_of(error)}"
    return Finding(plugin.source, "failure", found, f"{fix}{_raised_at(error)}")


def _raised_at(error: BaseException) -> str:
    """Return where the plugin's code raised *error*, as the end of a sentence; "" if our own code did."""
    if isinstance(error, SageDeployError):
        return ""
    frames = [each for each in extract_tb(error.__traceback__) if not each.filename.startswith("<frozen")]
    return "" if frames[-1].filename == __file__ else f"; raised at {frames[-1].filename}:{frames[-1].lineno}"


def _unmarked_hooks(plugin: Plugin) -> Iterator[Finding]:
    """Report functions that have the name of a hook and are none."""
    for name in sorted(
        {name for name in dir(plugin.load()) if name.startswith("sage_register_")} & set(dir(hookspecs))
    ):
        if name not in plugin.hooks:
            found = f"plugin '{plugin.name}' has the function {name!r}, which is not marked as a hook"
            yield Finding(plugin.source, "failure", found, "put @hookimpl before it")


def _unknown_hooks(plugin: Plugin) -> Iterator[Finding]:
    """Report hooks that this version does not know, and therefore skips."""
    known = [name for name in vars(hookspecs) if name.startswith("sage_")]
    for hook in plugin.unknown_hooks:
        near = did_you_mean(hook, known)
        fix = f"did you mean {near!r}?" if near else "a newer sage-deploy may know it"
        yield Finding(plugin.source, "failure", f"plugin '{plugin.name}' has the hook {hook!r}, which is unknown", fix)


def _unknown_names() -> Iterator[Finding]:
    """Report names in the variable that match no plugin."""
    for name, fix in unknown_disabled():
        yield Finding(DISABLED_VARIABLE, "warning", f"names {name!r}, but no plugin is called that", fix)


def _conflicts(offers: Mapping[tuple[str, str], Sequence[Plugin]]) -> Iterator[Finding]:
    """Report IDs that several plugins offer. Services that name them are refused."""
    for (kind, id), same in offers.items():
        if len(same) > 1:
            sources = " and ".join(plugin.source for plugin in same)
            fix = f"give one another ID, uninstall one, or set {DISABLED_VARIABLE}={same[-1].name}"
            yield Finding(sources, "failure", f"each of them offers {kind} '{id}'", fix)


def _heavy(plugins: Sequence[Plugin]) -> Iterator[Finding]:
    """Report plugins that import too much too early. Plugins get a process each only if one of them does."""
    if heavy_imports(plugin.name for plugin in plugins) == []:
        return
    for plugin in plugins:
        found = heavy_imports([plugin.name])
        if found is None:
            what = f"plugin '{plugin.name}' ends the process that imports it"
            yield Finding(plugin.source, "failure", what, "do nothing but define names when a module is imported")
        elif found:
            what = f"discovering plugin '{plugin.name}' imports {', '.join(found)}"
            yield Finding(plugin.source, "failure", what, "import them in create, or later: every start pays for it")


class Inspection:
    """Checks one registration. `findings` yields what is wrong with it."""

    def __init__(self, source: str, kind: str, registration: Registration) -> None:
        self._source = source
        self._kind = kind
        self._registration = registration
        self._shared = registration.environment_options
        self._arguments = ("config", "options") if self._shared is None else ("config", "options", "environment")

    def findings(self) -> Iterator[Finding]:
        """Yield everything that is wrong. Yield nothing if the registration keeps the contract."""
        summary = self._registration.summary
        if not isinstance(summary, str) or not summary or not summary.isprintable():
            yield self._wrong(f"its summary is not one line of text: {summary!r}", "say in one line what it does")
        try:
            pickle.dumps(self._registration.create)
        except Exception as error:  # noqa: BLE001 - pickle calls the object's own methods, which may raise anything
            fix = "make it a function or a class of a module, no lambda"
            yield self._wrong(f"create cannot be imported by name: {line_of(error)}", fix)
        names = [name for name in ("check", "explain") if getattr(self._registration, name) is not None]
        runnable = [name for name in names if _takes(getattr(self._registration, name), self._arguments)]
        for name in names:
            if name not in runnable:
                found = f"{name} does not take {'two' if self._shared is None else 'three'} arguments"
                yield self._wrong(found, f"declare it as {name}({', '.join(self._arguments)})")
        settings, wrong = self._settings()
        yield from wrong
        if not wrong and _REQUIRED not in settings:
            for name in runnable:
                yield from self._run(name, settings)
            yield from self._members(settings)

    def _settings(self) -> tuple[list[Any], list[Finding]]:
        """Return the default options that `check` and `explain` get, and findings about classes without usable ones."""
        found = [self._default_options(self._registration.options_class, "options", self._registration.id)]
        if self._shared is not None:
            found.append(self._default_options(self._shared.options_class, "environment_options", self._shared.id))
        return [default for default, _ in found], [wrong for _, wrong in found if wrong is not None]

    def _wrong(self, found: str, fix: str) -> Finding:
        return Finding(self._source, "failure", f"{self._kind} {self._registration.id!r}: {found}", fix)

    def _default_options(  # noqa: PLR0911 - one for each possible fault
        self, get_class: Callable[[], Any], what: str, id: str
    ) -> tuple[Any, Finding | None]:
        """Return default options, or `_REQUIRED` if an option has no default, and what is wrong with the class."""
        try:
            cls = get_class()
        except Exception as error:  # noqa: BLE001 - the plugin's function may raise anything
            fix = "options is the class, or a function without arguments that gives it"
            return None, self._wrong(f"its {what} class cannot be loaded: {line_of(error)}", fix)
        if cls is None and what == "options":
            return None, None
        if not (isinstance(cls, type) and attrs.has(cls)):
            return None, self._wrong(f"its {what} class {cls!r} is no attrs class", "decorate it with @attrs.frozen")
        try:
            attrs.resolve_types(cls)
        except Exception as error:  # noqa: BLE001 - the plugin's annotations may raise anything
            fix = "import what the annotations name when the module runs, not for type checkers only"
            return None, self._wrong(f"the types of its {what} cannot be resolved: {line_of(error)}", fix)
        if any(attribute.init and attribute.default is attrs.NOTHING for attribute in attrs.fields(cls)):
            return _REQUIRED, None
        options, problems = structure(cls, {}, key=f"options.{id}")
        if problems:
            found = f"its {what} class refuses its own defaults: {'; '.join(map(str, problems))}"
            return None, self._wrong(found, "give each option a default that its validator takes, or none")
        return options, None

    def _members(self, settings: Sequence[Any]) -> Iterator[Finding]:
        """Create the object with default options and compare it with its interface."""
        try:
            where = [Where("service", "environment")] if self._kind == "load balancer" else []
            created = self._registration.create(settings[0], *where, *settings[1:])
        except Exception as error:  # noqa: BLE001 - the plugin's function may raise anything
            names = ["options", *(["where"] if where else []), *(["environment"] if self._shared else [])]
            fix = f"have create({', '.join(names)}) work with default options, or None without any{_raised_at(error)}"
            yield self._wrong(f"create raises with default options: {line_of(error)}", fix)
            return
        wanted = interfaces_of(created, self._kind, self._registration.capabilities)
        faults = dict.fromkeys(fault for each in wanted for fault in faults_of(created, each))
        for fault in faults:
            yield self._wrong(f"what it creates {fault}", "see the interface in docs/hooks.md")

    def _run(self, name: str, settings: Sequence[Any]) -> Iterator[Finding]:
        wanted = (Problem,) if name == "check" else (str, Explanation)
        config = ServiceDeploymentConfig(**_NAMED[self._kind](self._registration.id))
        try:
            results = list(getattr(self._registration, name)(config, *settings))
        except Exception as error:  # noqa: BLE001 - the plugin's function may raise anything
            fix = f"have {name} never raise{_raised_at(error)}"
            yield self._wrong(f"{name} raises on a default configuration: {line_of(error)}", fix)
            return
        strange = [result for result in results if not isinstance(result, wanted)]
        if strange:
            fix = f"have it give objects of class {' or '.join(kind.__name__ for kind in wanted)} only"
            yield self._wrong(f"{name} gives {strange[0]!r}", fix)


def _takes(function: Callable[..., Any], arguments: Sequence[str]) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except (TypeError, ValueError):
        return False
    return True
