"""An environment in which tests can replace services by fakes."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import Mock, NonCallableMock

from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.service.constructor import init_problems
from sage_plugins.service.factory import ServiceFactory

if TYPE_CHECKING:
    from sage_plugins.service.factory import ServiceContext

__all__ = ["SageEnvironment"]

#: The fields of a service's configuration that apply to the fake: how calls run, and their timeouts.
_KEPT: Final = (
    "threading_strategy",
    "thread_count",
    "max_thread_count",
    "thread_pool_size",
    "max_concurrency",
    "queue_size",
    "overload",
    "timeout",
    "queue_timeout",
)


class SageEnvironment(Environment):
    """An `Environment` for tests. A fake can replace a service, wherever its file says that it runs."""

    def override(self, name: str, fake: Any) -> None:
        """
        Make *fake* answer a service's calls, from the next `deploy` or `apply` on.

        The fake runs in this process, as one replica. It keeps the service's threads, timeouts and queue limits. The
        rest of the service's configuration does not apply: its place, its constructor's arguments and its `methods`. So
        a fake need not have all methods.

        Args:
            name: Name of a service that was registered or loaded before.
            fake: A class whose constructor takes no arguments, or an object with public methods, for example
                `Mock(spec=KV)`.

        Raises:
            ServiceNotFoundError: No such service.
            TypeError: *fake* is an object without public methods, or a class whose constructor needs arguments.
        """
        self.service(name)
        config = self._services.catalogue.config(name)
        kept = {field: getattr(config, field) for field in _KEPT}
        options = {id: given for id, given in config.options.items() if id == config.threading_strategy}
        problem = next(init_problems(fake, (), {}), None) if isinstance(fake, type) else None
        if problem is not None:
            msg = f"the fake of service {name!r}: {problem.message}; give an object of {fake.__name__} instead"
            raise TypeError(msg)
        factory = ServiceFactory(name, fake) if isinstance(fake, type) else _Ready(name, fake)
        self._services.register(name, factory, ServiceDeploymentConfig(**kept, options=options))


class _Ready:
    """A factory that returns an existing instance."""

    def __init__(self, name: str, instance: Any) -> None:
        of_mocks = set(dir(Mock())) if isinstance(instance, NonCallableMock) else set()  # such as `assert_called`
        public = {key: _as_of_class(instance, key) for key in dir(instance) if key[0] != "_" and key not in of_mocks}
        methods = {key: value for key, value in public.items() if callable(value)}
        if not methods:
            msg = f"the fake of service {name!r} has no public methods: {instance!r}; give a mock a `spec`"
            raise TypeError(msg)
        self.service_name = name
        self.service_class = type(type(instance).__name__, (), methods)
        self._instance = instance

    def create_service(self, ctx: ServiceContext | None = None) -> Any:
        if ctx is not None:
            with suppress(AttributeError):  # the instance does not allow the attribute
                self._instance.ctx = ctx
        return self._instance


def _as_of_class(instance: Any, name: str) -> Any:
    """Return the attribute from the class if it has it, so that a method's signature has its `self`."""
    found = getattr(type(instance), name, None)
    return getattr(instance, name) if found is None else found
