"""
Makes a running environment reachable from outside its process, over HTTP and over a socket for the user's commands.

`calling`, `management`, `description` and `pages` answer requests, with the common parts in `web`. `recording` keeps
past metrics. `running` listens. `commands` has the commands of `sage-deploy` that talk to an environment. `reports`
saves the dashboard and its data in one file.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from sage_plugins import hookimpl
from sage_plugins.values import Command, Registration

if TYPE_CHECKING:
    from sage_deploy_server.running.app import asgi
    from sage_deploy_server.running.serving import Server, serve

__all__ = ["Server", "asgi", "serve"]

_HOMES: Final = {"Server": "running.serving", "asgi": "running.app", "serve": "running.serving"}

#: Maps each command to its module and its summary in `sage-deploy --help`.
_COMMANDS: Final = {
    "apply": ("change", "Read the file of a running environment again and apply its changes."),
    "balancer": ("change", "Change the load balancer of a running service."),
    "call": ("calling", "Call a method of a running service."),
    "dashboard": ("login", "Open the dashboard of a running environment in a browser."),
    "describe": ("show", "Show everything about one running service."),
    "down": ("change", "Stop a running environment after it has answered its accepted calls."),
    "drain": ("change", "Stop a running service after it has answered its accepted calls."),
    "events": ("follow", "Show the events of running services."),
    "login": ("login", "Print a link that logs a browser in to the dashboard."),
    "logs": ("follow", "Show the logs of running services."),
    "report": ("reporting", "Save the current dashboard of a running environment as one HTML file."),
    "restart": ("change", "Replace the replicas of a running service."),
    "scale": ("change", "Change the number of replicas of a running service."),
    "top": ("live", "Show running services live."),
    "status": ("show", "Show running services and whether they are ready."),
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{home}"), name)


def create_server(options: Any) -> Any:
    """Create the extension of one environment."""
    from sage_deploy_server.running.extension import ServerExtension

    return ServerExtension(options)


def server_options() -> type:
    """Return the class of the extension's options."""
    from sage_deploy_server.running.extension import ServerOptions

    return ServerOptions


@hookimpl
def sage_register_extensions() -> list[Registration]:
    """Offer `server`."""
    return [Registration("server", create_server, "Reach an environment from outside", options=server_options)]


def _load(module: str, name: str) -> Any:
    return getattr(import_module(f"{__name__}.commands.{module}"), name)


@hookimpl
def sage_register_commands() -> list[Command]:
    """Offer the commands that work on a running environment."""
    return [Command(name, partial(_load, module, name), summary) for name, (module, summary) in _COMMANDS.items()]
