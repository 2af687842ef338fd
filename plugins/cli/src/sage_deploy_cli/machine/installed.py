"""The installed plugins, as `sage-deploy plugins list` shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_deploy_cli.machine.plugin_check import unknown_disabled
from sage_plugins.plugins.discovery import disabled_names, installed

if TYPE_CHECKING:
    from sage_plugins.plugins.discovery import Plugin
    from sage_plugins.plugins.registry import Registered, Registry

__all__ = ["disabled", "installed_plugins", "offer"]


def installed_plugins(registry: Registry) -> dict[str, Any]:
    """What *registry* offers, what did not load and why, what is disabled; as values that JSON has."""
    return {
        "plugins": [offer(kind, entry) for (kind, _), entry in sorted(registry.entries().items())],
        "failures": [{**_origin(failure.plugin), "reason": failure.reason} for failure in registry.failures],
        "disabled": [_origin(plugin) for plugin in disabled()],
        "unknown_disabled": list(dict(unknown_disabled())),
    }


def disabled() -> list[Plugin]:
    """Those that a variable has left out."""
    names = disabled_names()
    return [plugin for plugin in installed() if plugin.name in names]


def offer(kind: str, entry: Registered) -> dict[str, Any]:
    """One ID that a plugin offers."""
    registration = entry.registration
    return {"kind": kind, "id": registration.id, "summary": registration.summary, **_origin(entry.plugin)}


def _origin(plugin: Plugin) -> dict[str, str]:
    return {
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "module": plugin.module,
    }
