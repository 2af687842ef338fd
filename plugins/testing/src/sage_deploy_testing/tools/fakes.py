"""An environment in which services can be replaced by fakes."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.service.factory import ServiceFactory

if TYPE_CHECKING:
    from sage_plugins.service.factory import ServiceContext

__all__ = ["SageEnvironment"]

#: What of a service's configuration holds for the fake: how calls run, and how long they may take.
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
    """An `Environment` for tests: a service can be replaced by a fake, whatever a file says where it runs."""

    def override(self, name: str, fake: Any) -> None:
        """
        Have *fake* answer the calls of a service, from the next `deploy` or `apply` on.

        It runs in this process, as one replica, on the threads and with the timeouts and limits of the queue that the
        service has. What else is configured for the service does not count: its place, its constructor's arguments,
        its `methods`, of which a fake need not have all.

        Args:
            name: Name of a service that was registered or loaded before.
            fake: A class that takes no argument; or an object with public methods, such as `Mock(spec=KV)`.

        Raises:
            ServiceNotFoundError: There is no such service.
            TypeError: *fake* is an object without public methods.
        """
        self.service(name)
        config = self._services.catalogue.config(name)
        kept = {field: getattr(config, field) for field in _KEPT}
        options = {id: given for id, given in config.options.items() if id == config.threading_strategy}
        factory = ServiceFactory(name, fake) if isinstance(fake, type) else _Ready(name, fake)
        self._services.register(name, factory, ServiceDeploymentConfig(**kept, options=options))


class _Ready:
    """A factory of an instance that there is already."""

    def __init__(self, name: str, instance: Any) -> None:
        public = {key: _as_of_class(instance, key) for key in dir(instance) if not key.startswith("_")}
        methods = {key: value for key, value in public.items() if callable(value)}
        if not methods:
            msg = f"the fake of service {name!r} has no public methods: {instance!r}; give a mock a `spec`"
            raise TypeError(msg)
        self.service_name = name
        self.service_class = type(type(instance).__name__, (), methods)
        self._instance = instance

    def create_service(self, ctx: ServiceContext | None = None) -> Any:
        if ctx is not None:
            with suppress(AttributeError):  # it has no place for it
                self._instance.ctx = ctx
        return self._instance


def _as_of_class(instance: Any, name: str) -> Any:
    """The attribute as a class has it: a method without its instance; so that its parameters are those of a method."""
    found = getattr(type(instance), name, None)
    return getattr(instance, name) if found is None else found
