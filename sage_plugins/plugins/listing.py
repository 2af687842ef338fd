"""Lists what the installed plugins offer, and runs their checks of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.errors import line_of
from sage_plugins.findings import Finding
from sage_plugins.plugins.discovery import disabled_names, installed
from sage_plugins.texts import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_plugins.plugins.discovery import Plugin
    from sage_plugins.plugins.registry import Registered, Registry

__all__ = ["disabled", "examine", "listing", "offer", "unknown_disabled"]


def listing(registry: Registry) -> dict[str, Any]:
    """Return what plugins offer, which ones failed to load and why, and which are disabled; as JSON values."""
    return {
        "plugins": [offer(kind, entry) for (kind, _), entry in sorted(registry.entries().items())],
        "failures": [{**_origin(failure.plugin), "reason": failure.reason} for failure in registry.failures],
        "disabled": [_origin(plugin) for plugin in disabled()],
        "unknown_disabled": [name for name, _ in unknown_disabled()],
    }


def disabled() -> list[Plugin]:
    """Return the installed plugins that `SAGE_DEPLOY_DISABLED_PLUGINS` disables."""
    names = disabled_names()
    return [plugin for plugin in installed() if plugin.name in names]


def unknown_disabled() -> Iterator[tuple[str, str]]:
    """Yield the names in `SAGE_DEPLOY_DISABLED_PLUGINS` that no plugin has, each with what to do about it."""
    names = [plugin.name for plugin in installed()]
    for name in sorted(disabled_names().difference(names)):
        near = did_you_mean(name, names)
        yield name, f"did you mean {near!r}?" if near else f"name one of {', '.join(sorted(set(names)))}"


def offer(kind: str, entry: Registered) -> dict[str, Any]:
    """Return one ID that a plugin offers, as JSON values."""
    registration = entry.registration
    return {"kind": kind, "id": registration.id, "summary": registration.summary, **_origin(entry.plugin)}


def _origin(plugin: Plugin) -> dict[str, str]:
    return {
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "module": plugin.module,
    }


def examine(registry: Registry) -> list[Finding]:
    """Run the checks of all plugins; return their findings. A check that fails is a warning. May take seconds."""
    found: list[Finding] = []
    for plugin, check in registry.checks:
        try:
            found += check()
        except Exception as error:  # noqa: BLE001 - a failing check must not prevent the other checks
            name = f"plugin {plugin.name}"
            found.append(Finding(name, "warning", f"could not be checked: {line_of(error)}", "check it by hand"))
    return found
