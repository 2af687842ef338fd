"""
How calls of a pipeline get to the services that sage-deploy runs, without changing anything of SAGE.

A pipeline makes its functions by calling `transformation.function_class`, a public attribute. For the time of a
`submit` it is a `FunctionMaker`, which makes the same function and gives it a `call_service` that knows both ways: a
service of ours is called through its handle, every other one as SAGE does it.

Calling SAGE's way has costs that are none of the service's: a context of a linear batch has no `call_service`; a caller
looks every 10 ms whether there is an answer, and reads the next item of a stream meanwhile, within the call; calls
within calls take all threads of one small pool. See docs/guides/sage-pipelines.md.
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
    """What those who call need to know; it changes with every deployment, so they ask anew for each call."""

    @property
    def names(self) -> Collection[str]:
        """The services that are ours."""

    @property
    def call_service(self) -> ServiceCaller:
        """Calls them."""

    @property
    def call_service_async(self) -> AsyncServiceCaller:
        """The same, gives futures."""


#: Methods that SAGE calls when it starts and stops what it takes for an instance.
_HOOKS: Final = LIFECYCLE_HOOKS | {"terminate"}

#: What a function calls services with, here and in SAGE.
_VERBS: Final = ("call_service", "call_service_async")


class FunctionMaker:
    """
    Makes the functions of one step of a pipeline, in place of their class.

    No class derived from theirs: `type(self).collected` of a function must go on meaning the class that its author
    wrote. All other attributes are those of the class.
    """

    def __init__(self, function_class: Any, routes: Routes) -> None:
        """
        Take the place of a class.

        Args:
            function_class: What makes the functions.
            routes: Which services are ours.
        """
        self.function_class = function_class
        self._routes = routes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A function, which can call the services of both."""
        function = self.function_class(*args, **kwargs)
        for verb in _VERBS:
            if _is_sages_own(type(function), verb):
                caller = CallerOfFunction(self._routes, verb, getattr(function, verb, None))
                with suppress(AttributeError):  # a class with __slots__; it calls as SAGE does
                    setattr(function, verb, caller)
        return function

    def __getattr__(self, name: str) -> Any:
        """What the class has, such as `__name__`."""
        return getattr(self.function_class, name)

    def __repr__(self) -> str:
        """For whom it stands."""
        return f"<{type(self).__name__} of {self.function_class!r}>"


def _is_sages_own(cls: type, name: str) -> bool:
    """Whether nobody but SAGE has defined the method *name* of *cls*: what its author wrote stays."""
    owner = next((base for base in cls.__mro__ if name in vars(base)), None)
    return owner is None or owner.__module__.partition(".")[0] == "sage"


class CallerOfFunction:
    """`self.call_service` of a function, or `self.call_service_async`: called as in SAGE, or by index."""

    __slots__ = ("_others", "_routes", "_verb")

    def __init__(self, routes: Routes, verb: str, others: Callable[..., Any] | None) -> None:
        """
        Call services.

        Args:
            routes: Which services are ours.
            verb: Which attribute of *routes* calls them.
            others: Calls all others, as SAGE does it; None if there is no such thing.
        """
        self._routes = routes
        self._verb = verb
        self._others = others

    def __call__(
        self, service_name: str, *args: Any, timeout: float | None = None, method: str | None = None, **kwargs: Any
    ) -> Any:
        """Call a service; see `ServiceCaller` for ours, `sage.foundation.BaseFunction` for others."""
        routes = self._routes
        if service_name in routes.names or self._others is None:
            return getattr(routes, self._verb)(service_name, *args, timeout=timeout, method=method, **kwargs)
        return self._others(service_name, *args, timeout=timeout, method=method, **kwargs)

    def __getitem__(self, service_name: str) -> Any:
        """The methods of a service of ours, as SAGE offered it until 2025: `self.call_service["kv"].get("k")`."""
        return getattr(self._routes, self._verb)[service_name]

    def __repr__(self) -> str:
        """Which verb it is."""
        return f"<{self._verb} of a function>"


class DeployedFactory:
    """
    What SAGE has of a service of ours: a factory, whose "instance" is a door to what is deployed.

    Services that SAGE runs itself call ours through it, and so does `self.ctx` of a function.
    """

    def __init__(self, original: Any, routes: Routes, name: str, service_class: type) -> None:
        """
        Stand for a deployed service.

        Args:
            original: The factory that was registered; None if there is none, as the service is a file's.
            routes: Where the service is called.
            name: Name of the service.
            service_class: Its class.
        """
        self.original = original
        self.service_name = name
        self.service_class = service_class
        self._routes = routes

    def create_service(self, ctx: Any = None) -> DeployedService:  # noqa: ARG002 - SAGE gives it
        """A door to the service."""
        return DeployedService(self._routes, self.service_name, self.service_class)

    def __repr__(self) -> str:
        """Name and class."""
        return f"<{type(self).__name__} {self.service_name!r} {self.service_class.__qualname__}>"


class DeployedService:
    """
    The methods of a deployed service, as an object.

    It has no hooks, such as `stop`: the deployment starts and stops what it stands for.
    """

    def __init__(self, routes: Routes, name: str, service_class: type) -> None:
        self._routes = routes
        self._name = name
        self._class = service_class

    def __getattr__(self, method: str) -> Any:
        """The method of that name as a callable, if the class has one: SAGE looks for several and takes the first."""
        if method.startswith("_") or method in _HOOKS or not callable(getattr(self._class, method, None)):
            msg = f"service {self._name!r} serves no method {method!r}"
            raise AttributeError(msg)
        return getattr(self._routes.call_service[self._name], method)
