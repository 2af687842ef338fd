"""Options that select the environment and services of a command. Shells complete names of running services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sage_deploy_server.commands.client import EnvironmentClient, find_environment, path_of, running_environments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["BALANCER", "METHOD", "REPLICA", "SERVICE", "environment_options"]


class _CompletedName(click.ParamType):  # type: ignore[type-arg] # only the latest click is generic
    """A text that the shell completes with names from the running environment. On an error it completes nothing."""

    name = "text"

    def __init__(self, names: Callable[[click.Context], Iterable[str]]) -> None:
        self._names = names

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 - click's interface
        incomplete: str,
    ) -> list[Any]:
        from click.shell_completion import CompletionItem

        try:
            return [CompletionItem(name) for name in self._names(ctx) if name.startswith(incomplete)]
        except click.ClickException:
            return []


def _services(ctx: click.Context) -> list[str]:
    return [row["name"] for row in _client_for(**ctx.params).get("/api/v1/services")]


def _methods(ctx: click.Context) -> list[str]:
    services = _client_for(**ctx.params).get("/services")["services"]
    return [f"{service['name']}.{method['name']}" for service in services for method in service["methods"]]


def _replicas(ctx: click.Context) -> list[str]:
    service = ctx.params.get("service")
    services = _services(ctx) if service is None else [service]
    client = _client_for(**ctx.params)
    return [each["id"] for name in services for each in client.get(path_of(name, "replicas"))]


def _balancers(ctx: click.Context) -> list[str]:
    plugins = _client_for(**ctx.params).get("/api/v1/plugins")["plugins"]
    return [each["id"] for each in plugins if each["kind"] == "load balancer"]


#: Types of arguments: environment, service, replica, load balancer, and `SERVICE.METHOD`.
_ENVIRONMENT = _CompletedName(lambda _: [about["name"] for about, _ in running_environments()])
SERVICE = _CompletedName(_services)
REPLICA = _CompletedName(_replicas)
BALANCER = _CompletedName(_balancers)
METHOD = _CompletedName(_methods)


def _client_for(
    environment: str | None = None, url: str | None = None, token: str | None = None, **_: Any
) -> EnvironmentClient:
    """Return a client of the environment that a command line selects."""
    return EnvironmentClient.at_url(url, token) if url is not None else find_environment(environment)


def environment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select an environment, and pass the client as the argument `client`."""

    @click.option("--environment", "-e", type=_ENVIRONMENT, help="Name of the environment, if several are running.")
    @click.option("--url", help="URL of an environment that answers over HTTP, such as http://host:8400.")
    @click.option(
        "--token", envvar="SAGE_DEPLOY_TOKEN", help="Token for --url; default: the variable SAGE_DEPLOY_TOKEN."
    )
    @click.pass_context
    def with_client(
        context: click.Context, /, environment: str | None, url: str | None, token: str | None, **more: Any
    ) -> Any:
        client = _client_for(environment, url, token)
        return context.invoke(command, client=client, **more)

    with_client.__doc__ = command.__doc__
    with_client.__click_params__ = [  # type: ignore[attr-defined] # click collects the decorators' options here
        *getattr(command, "__click_params__", []),
        *getattr(with_client, "__click_params__", []),
    ]
    return with_client
