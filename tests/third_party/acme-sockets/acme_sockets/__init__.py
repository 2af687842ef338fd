"""The target `sockets`, whose replicas are child processes of this machine, and the extension `status_file`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins import hookimpl
from sage_plugins.values import Registration

if TYPE_CHECKING:
    from collections.abc import Iterable

# Each function imports what it needs, so that loading the plugin stays fast.


def create_target(options: None) -> Any:
    """Make the target of one service."""
    from acme_sockets.target import SocketTarget

    return SocketTarget()


def explain_target(config: Any, options: None) -> Iterable[str]:
    """Yield the lines that the plan shows."""
    yield "each replica is a child process of this one"
    if config.cpu_cores or config.memory_mb or config.gpu_count:
        yield "resources are not reserved: all replicas share this machine"


def create_status_file(options: Any) -> Any:
    """Make the extension for one environment."""
    from acme_sockets.status_file import StatusFile

    return StatusFile(options)


def status_file_options() -> type:
    """Return the class of the extension's options."""
    from acme_sockets.status_file import StatusFileOptions

    return StatusFileOptions


@hookimpl
def sage_register_targets() -> list[Registration]:
    """Offer `sockets`."""
    return [
        Registration(
            "sockets",
            create_target,
            "child processes of this machine",
            explain=explain_target,
            capabilities=frozenset({"can_kill", "reachable", "replaces_unhealthy"}),
        ),
    ]


@hookimpl
def sage_register_extensions() -> list[Registration]:
    """Offer `status_file`."""
    return [
        Registration(
            "status_file",
            create_status_file,
            "writes the environment's status to a file",
            options=status_file_options,
        ),
    ]
