"""
Routes calls of a pipeline to the services that sage-deploy runs, without changing SAGE.

A pipeline creates its functions by calling `transformation.function_class`, a public attribute. During a `submit`,
that is a `FunctionMaker`. It creates the same function, and gives it a `call_service` that knows both ways: it calls
deployed services through their handles, and all others as SAGE does.

SAGE's own way has costs of its own. Contexts of a linear batch have no `call_service`. A caller checks for an answer
every 10 ms, and meanwhile reads the next item of a stream within the call. Nested calls use up the threads of one small
pool. See docs/guides/sage-pipelines.md.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from sage_plugins.service.methods import LIFECYCLE_HOOKS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sage_plugins.service.callers import AsyncServiceCaller, ServiceCaller

__all__ = ["CallerOfFunction", "DeployedFactory", "FunctionMaker", "Routes"]


class Routes(Protocol):
    """The routing data of callers. It changes with every deployment, so callers read it for each call."""

    @property
    def names(self) -> Collection[str]:
        """The services that sage-deploy runs."""

    @property
    def registered(self) -> Collection[str]:
        """The services that are registered in SAGE."""

    @property
    def call_service(self) -> ServiceCaller:
        """Calls those services."""

    @property
    def call_service_async(self) -> AsyncServiceCaller:
        """The same, but returns futures."""


#: Methods that SAGE calls when it starts and stops a service instance.
_HOOKS: Final = LIFECYCLE_HOOKS | {"terminate"}

#: The attributes with which a function calls services, here and in SAGE.
_VERBS: Final = ("call_service", "call_service_async")


class FunctionMaker:
    """
    Creates the functions of one step of a pipeline, in place of their class.

    It does not derive a class: `type(self).collected` in a function must still refer to the class that its author
    wrote. All other attributes are those of the class.
    """

    def __init__(self, function_class: Any, routes: Routes) -> None:
        """
        Replace a class.

        Args:
            function_class: Creates the functions.
            routes: Says which services sage-deploy runs.
        """
        self.function_class = function_class
        self._routes = routes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return a function that can call deployed services and SAGE's own."""
        function = self.function_class(*args, **kwargs)
        for verb in _VERBS:
            if _is_sages_own(type(function), verb):
                caller = CallerOfFunction(self._routes, verb, getattr(function, verb, None))
                with suppress(AttributeError):  # a class with __slots__; its functions call as in SAGE
                    setattr(function, verb, caller)
        return function

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the class, such as `__name__`."""
        return getattr(self.function_class, name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.function_class!r}>"


def _is_sages_own(cls: type, name: str) -> bool:
    """Whether only SAGE defines the method *name* of *cls*. A method written by the user is kept."""
    owner = next((base for base in cls.__mro__ if name in vars(base)), None)
    return owner is None or owner.__module__.partition(".")[0] == "sage"


class CallerOfFunction:
    """`self.call_service` or `self.call_service_async` of a function. It is called as in SAGE, or used by index."""

    __slots__ = ("_others", "_routes", "_verb")

    def __init__(self, routes: Routes, verb: str, others: Callable[..., Any] | None) -> None:
        self._routes = routes
        self._verb = verb
        self._others = others

    def __call__(
        self, service_name: str, *args: Any, timeout: float | None = None, method: str | None = None, **kwargs: Any
    ) -> Any:
        """Call a service; see `ServiceCaller` for deployed services, `sage.foundation.BaseFunction` for others."""
        routes = self._routes
        # For a name that nobody registered, SAGE's error in a linear batch is about its own context.
        if service_name in routes.names or service_name not in routes.registered or self._others is None:
            return getattr(routes, self._verb)(service_name, *args, timeout=timeout, method=method, **kwargs)
        return self._others(service_name, *args, timeout=timeout, method=method, **kwargs)

    def __getitem__(self, service_name: str) -> Any:
        """Return a deployed service's methods, as SAGE did until 2025: `self.call_service["kv"].get("k")`."""
        return getattr(self._routes, self._verb)[service_name]

    def __repr__(self) -> str:
        return f"<{self._verb} of a function>"


class DeployedFactory:
    """
    The factory that SAGE gets for a deployed service. Its "instances" forward calls to the deployment.

    Services that SAGE runs itself call deployed ones through it, and so does `self.ctx` of a function.
    """

    def __init__(self, original: Any, routes: Routes, name: str, service_class: type) -> None:
        """
        Represent a deployed service.

        Args:
            original: The factory that was registered. None if only a file declares the service.
            routes: Calls the service.
            name: The service's name.
            service_class: Its class.
        """
        self.original = original
        self.service_name = name
        self.service_class = service_class
        self._routes = routes

    def create_service(self, ctx: Any = None) -> DeployedService:  # noqa: ARG002 - SAGE passes it
        """Return an object that forwards calls to the service."""
        return DeployedService(self._routes, self.service_name, self.service_class)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.service_name!r} {self.service_class.__qualname__}>"


class DeployedService:
    """
    The methods of a deployed service, as an object.

    It has no hooks such as `stop`: the deployment starts and stops the service.
    """

    def __init__(self, routes: Routes, name: str, service_class: type) -> None:
        self._routes = routes
        self._name = name
        self._class = service_class

    def __getattr__(self, method: str) -> Any:
        """Return the method as a callable if the class has it: SAGE tries several names and takes the first."""
        if method.startswith("_") or method in _HOOKS or not callable(getattr(self._class, method, None)):
            msg = f"service {self._name!r} serves no method {method!r}"
            raise AttributeError(msg)
        return getattr(self._routes.call_service[self._name], method)
