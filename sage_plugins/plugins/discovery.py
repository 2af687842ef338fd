"""The entry points of the group `sage_deploy`: which plugins are installed, disabled, or failed to load."""

from __future__ import annotations

import os
from functools import cached_property
from importlib import metadata
from typing import Any, Final, NamedTuple

from sage_plugins.errors import line_of
from sage_plugins.hookspecs import PROJECT

__all__ = ["DISABLED_VARIABLE", "Failure", "Plugin", "disabled_names", "installed"]


#: Variable with the names of entry points that are not loaded, separated by commas.
DISABLED_VARIABLE: Final = "SAGE_DEPLOY_DISABLED_PLUGINS"


class Plugin:
    """
    A plugin that was found.

    Attributes:
        name: Name of its entry point.
        module: What the entry point names.
        hooks: Names of the hooks that it implements; empty until it was loaded.
        unknown_hooks: What it marks as hooks and this version does not know, so that it is skipped.
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
        self.unknown_hooks: tuple[str, ...] = ()
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
            "unknown_hooks": self.unknown_hooks,
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
