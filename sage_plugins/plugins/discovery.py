"""Discovers the installed plugins, and which of them are disabled."""

from __future__ import annotations

import os
from functools import cached_property, reduce
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sage_plugins.hookspecs import PROJECT
from sage_plugins.plugins.entry_points import entry_points

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.metadata import Distribution

__all__ = ["DISABLED_VARIABLE", "Failure", "Plugin", "disabled_names", "installed"]


#: Environment variable with the names of entry points that are not loaded, separated by commas.
DISABLED_VARIABLE: Final = "SAGE_DEPLOY_DISABLED_PLUGINS"


class Plugin:
    """
    A plugin that was found.

    Attributes:
        name: Name of its entry point.
        module: Value of its entry point: `module` or `module:object`.
        hooks: Names of the hooks that it implements; empty until it is loaded.
        unknown_hooks: Names of functions that it marks as hooks and that this version does not know. They are skipped.
    """

    def __init__(self, name: str, module: str, find_distribution: Callable[[], Distribution] | None = None) -> None:
        """
        Describe a plugin.

        Args:
            name: Name of its entry point.
            module: Value of its entry point.
            find_distribution: Returns its distribution; None for a plugin that was given as an object.
        """
        self.name = name
        self.module = module
        self.hooks: tuple[str, ...] = ()
        self.unknown_hooks: tuple[str, ...] = ()
        self._find_distribution = find_distribution

    @cached_property
    def distribution(self) -> str:
        """Its distribution's name; "" if it has none. Read at the first access, because that reads a file."""
        return "" if self._find_distribution is None else self._find_distribution().name

    @cached_property
    def version(self) -> str:
        """Version of its distribution; "" if it has none."""
        return "" if self._find_distribution is None else self._find_distribution().version

    @property
    def source(self) -> str:
        """`"acme-gpu 1.2"`, or the module for a plugin given as an object."""
        return f"{self.distribution} {self.version}" if self.distribution else self.module

    def load(self) -> Any:
        """Import and return what the entry point names: a module, or an object in a module."""
        module, _, path = self.module.partition("[")[0].partition(":")  # extras in brackets name dependencies
        return reduce(getattr, filter(None, path.strip().split(".")), import_module(module.strip()))

    def __getstate__(self) -> dict[str, Any]:
        """Keep name and version of the distribution. Its path is useless in another process."""
        return {
            "name": self.name,
            "module": self.module,
            "hooks": self.hooks,
            "unknown_hooks": self.unknown_hooks,
            "_find_distribution": None,
            "distribution": self.distribution,
            "version": self.version,
        }

    def __repr__(self) -> str:
        return f"<Plugin {self.name!r} {self.module}>"


class Failure(NamedTuple):
    """
    A plugin that failed to load.

    Attributes:
        plugin: The plugin.
        error: The exception with which it failed.
    """

    plugin: Plugin
    error: BaseException

    @property
    def reason(self) -> str:
        """The reason, on one line."""
        from sage_plugins.errors import line_of  # only what fails needs errors

        return line_of(self.error)

    def __str__(self) -> str:
        """`plugin 'gpu' from acme-gpu 1.2 (acme_gpu) failed to load: ModuleNotFoundError: No module named 'pynvml'`."""
        plugin = self.plugin
        return f"plugin {plugin.name!r} from {plugin.source} ({plugin.module}) failed to load: {self.reason}"


def disabled_names() -> frozenset[str]:
    """Return the names in `SAGE_DEPLOY_DISABLED_PLUGINS`, whether there are such plugins."""
    names = (name.strip() for name in os.environ.get(DISABLED_VARIABLE, "").split(","))
    return frozenset(name for name in names if name)


def installed() -> list[Plugin]:
    """Return all installed plugins, including the disabled ones. Imports none of them."""
    found: list[Plugin] = []
    for point in entry_points(PROJECT):
        plugin = Plugin(*point)
        # An editable install may appear twice, with the same distribution.
        if not any(
            known.name == plugin.name and (known.distribution, known.module) == (plugin.distribution, plugin.module)
            for known in found
        ):
            found.append(plugin)
    return found
