"""
Calls to the services of an environment over HTTP.

`problems` says what clients are told of errors, `shapes` makes arguments of JSON and JSON of results, `calls` answers
requests, `access` lets them in, `app` is the ASGI application, `serving` runs it, and `extension` starts
it with an environment. Imports `Operations`, the errors and
the hooks of the core, and nothing else of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from sage_plugins import hookimpl
from sage_plugins.values import Registration

if TYPE_CHECKING:
    from sage_deploy_server.app import asgi
    from sage_deploy_server.serving import Server, serve

__all__ = ["Server", "asgi", "serve"]

_HOMES: Final = {"Server": "serving", "asgi": "app", "serve": "serving"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{home}"), name)


def create_server(options: Any) -> Any:
    """Make the extension of one environment."""
    from sage_deploy_server.extension import ServerExtension

    return ServerExtension(options)


def server_options() -> type:
    """Give the class of the extension's options."""
    from sage_deploy_server.extension import ServerOptions

    return ServerOptions


@hookimpl
def sage_register_extensions() -> list[Registration]:
    """Offer `server`."""
    return [Registration("server", create_server, "answers calls of services over HTTP", options=server_options)]
