"""Checks whether this machine can open the sockets that calls use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sage_deploy_remote.rpc.listeners import Listeners, this_machine
from sage_plugins.errors import text_of
from sage_plugins.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from socket import socket

__all__ = ["check_links"]

_NAME: Final = "Ray"

#: A machine ID that no machine has.
_OTHER_MACHINE: Final = ""


def check_links() -> Iterator[Finding]:
    """Try the sockets to a replica on this machine: as from this machine, and as from another one."""
    import ray

    host = ray.util.get_node_ip_address()
    listeners = Listeners(lambda: host, _close_socket)
    try:
        yield _try(listeners, this_machine, "a Unix socket", "set TMPDIR to a folder that this user may write")
        fix = "open the machine's own ports for itself, or set options.ray.calls to tasks"
        yield _try(listeners, lambda: _OTHER_MACHINE, f"TCP at {host}", fix)
    finally:
        listeners.close()


def _try(listeners: Listeners, machine: Callable[[], str], how: str, fix: str) -> Finding:
    try:
        listeners.find(machine()).connect_socket().close()
    except Exception as error:  # noqa: BLE001 - anything may prevent the connection
        found = f"calls cannot go over {how}, and would be tasks of Ray, which are slower: {text_of(error)}"
        return Finding(_NAME, "warning", found, fix)
    return Finding(_NAME, "ok", f"calls can go over {how}")


def _close_socket(end: socket) -> None:
    end.close()
