"""Lists the nodes on which replicas run or may run."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

from sage_plugins.errors import line_of
from sage_plugins.interfaces.targets import NodeView

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sage_plugins.deployment.replicas.member import Member
    from sage_plugins.deployment.task import ServiceTask
    from sage_plugins.interfaces import ListingTarget

__all__ = ["nodes_of"]

#: Name of the node of replicas in this process.
_HERE: Final = "this process"

#: At most this many reasons per node why replicas are not there.
_REASONS: Final = 50


def nodes_of(tasks: Iterable[ServiceTask]) -> list[dict[str, Any]]:
    """As `Operations.nodes`, for the services of *tasks*."""
    listed: dict[str, NodeView] = {}
    problems: list[str] = []
    asked = set()
    members: list[tuple[str, Member]] = []
    for task in tasks:
        members += [(task.service_name, member) for member in task.replicas.members]
        target = task.composition.target
        if "lists_nodes" in target.registration.capabilities and target.id not in asked:
            asked.add(target.id)
            try:
                listed.update((node.name, node) for node in cast("ListingTarget", task.launcher.target()).nodes())
            except Exception as error:  # noqa: BLE001 - an error of one cluster must not hide the other nodes
                problems.append(f"target '{target.id}' does not say which nodes it has: {line_of(error)}")
    used = dict.fromkeys(member.lane.node or _HERE for _, member in members if member.replica is not None)
    if _HERE in used or not listed:
        listed = {_HERE: _here(), **listed}
    return [_described(name, listed.get(name), members, problems) for name in dict.fromkeys([*listed, *used])]


def _described(
    name: str, node: NodeView | None, members: Sequence[tuple[str, Member]], problems: list[str]
) -> dict[str, Any]:
    refused = [f"{member.id}: {member.not_on[name]}" for _, member in members if name in member.not_on]
    found: dict[str, Any] = {"cpu": None, "gpu": None, "memory": None, "labels": {}}
    if node is not None:
        found = {**node._asdict(), "labels": dict(node.labels)}
    return {
        **found,
        "name": name,
        "state": "alive" if node is not None else "unknown",
        "replicas": [
            (service, member.id, str(member.state))
            for service, member in members
            if member.replica is not None and (member.lane.node or _HERE) == name
        ],
        "refused": (refused if node is not None else problems + refused)[:_REASONS],
    }


def _here() -> NodeView:
    """Return the machine of this process, as far as the operating system reports it."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    busy, page, free, total = 0.0, 0, 0, 0
    with suppress(OSError, ValueError, AttributeError):  # not every system has all of these
        busy = os.getloadavg()[0]
        page, total = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
        free = os.sysconf("SC_AVPHYS_PAGES")
    return NodeView(_HERE, (max(0.0, cores - busy), cores), (0, 0), (page * free, page * total), {})
