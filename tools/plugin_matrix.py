"""
Write docs/plugin-matrix.md: which targets and strategies work together, and what each plugin of ours declares.

    python tools/plugin_matrix.py

The plugins themselves give the answers. A test compares the page with the output of this program.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_testing.suites.balancer_conformance import BALANCER_CAPABILITIES
from sage_deploy_testing.suites.monitor_conformance import MONITOR_CAPABILITIES
from sage_deploy_testing.suites.service_conformance import STRATEGY_CAPABILITIES, TARGET_CAPABILITIES
from sage_plugins import ServiceDeploymentConfig
from sage_plugins.planning.choices import check_config
from sage_plugins.plugins.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PAGE = Path(__file__).resolve().parent.parent / "docs" / "plugin-matrix.md"

#: Required settings of targets that choose nodes.
_NODES: Final[Mapping[str, Mapping[str, Any]]] = {
    "remote_specific": {"target_nodes": ["node-a"]},
    "cluster_group": {"node_selector": {"zone": "a"}},
}

_KNOWN: Final[Mapping[str, Mapping[str, str]]] = {
    "target": TARGET_CAPABILITIES,
    "threading strategy": STRATEGY_CAPABILITIES,
    "load balancer": BALANCER_CAPABILITIES,
    "monitor": MONITOR_CAPABILITIES,
}

_HEAD: Final = """\
# Plugin matrix

This page shows which targets and threading strategies work together, and which capabilities the plugins of this
repository declare. [The capabilities](hooks.md#the-capabilities) has their definitions. A capability is a promise:
the plugin's [conformance suite](writing-plugins.md#testing-it) has a case for it.

<!-- Written by tools/plugin_matrix.py. -->
"""


def page() -> str:
    """Return the whole page."""
    # Only plugins of this repository: a developer may have installed others.
    registry = Registry.discover(lambda plugin: plugin.distribution.startswith("sage-deploy"))
    parts = [_HEAD, "## Targets and strategies\n", _pairs(registry)]
    for kind, known in _KNOWN.items():
        parts += [f"## {_plural(kind).capitalize()}\n", _declared(registry, kind, known)]
    return "\n".join(parts)


def _plural(kind: str) -> str:
    return f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"


def _pairs(registry: Registry) -> str:
    strategies = registry.ids("threading strategy")
    rows = [
        [f"`{target}`", *(_verdict(registry, target, strategy) for strategy in strategies)]
        for target in registry.ids("target")
    ]
    return _table(["target", *(f"`{each}`" for each in strategies)], rows)


def _verdict(registry: Registry, target: str, strategy: str) -> str:
    config = ServiceDeploymentConfig(target=target, threading_strategy=strategy, **_NODES.get(target, {}))
    errors = [each.id for each in check_config("service", config, registry) if each.id.startswith("E")]
    return "yes" if not errors else ", ".join(f"no: [{id}](errors.md#{id.lower()})" for id in errors)


def _declared(registry: Registry, kind: str, known: Mapping[str, str]) -> str:
    ids = registry.ids(kind)
    declared = {id: registry.find(kind, id).registration.capabilities for id in ids}
    rows = [[f"`{each}`", *("yes" if each in declared[id] else "" for id in ids)] for each in known]
    return _table(["capability", *(f"`{id}`" for id in ids)], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("|" + "".join(f" {cell} |" if cell else " |" for cell in line) + "\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
