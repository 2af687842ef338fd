"""Builds the instances of a service, and gives each its context `self.ctx`."""

from __future__ import annotations

import inspect
import logging
from contextlib import suppress
from functools import cached_property, partial
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sage_plugins.call.current import CURRENT, request_id
from sage_plugins.config.entries import check_service_name
from sage_plugins.service.constructor import parameters_of, takes_ctx, takes_factory

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence

    from sage_plugins.routing.handles.handle import ServiceHandle
    from sage_plugins.service.callers import AsyncServiceCaller, ServiceCaller, ServiceManager
    from sage_plugins.service.own_metrics import OwnMetrics

__all__ = ["ServiceContext", "ServiceFactory", "hook", "own_factory"]

_Service = TypeVar("_Service")


def hook(instance: Any, *names: str, args: Sequence[Any] = ()) -> Generator[Coroutine[Any, Any, Any], None, None]:
    """
    Call the first of the hooks *names* that *instance* has, with *args*.

    If the hook is an `async def`, yields its coroutine. The caller must run it.
    """
    for name in names:
        method = getattr(instance, name, None)
        if callable(method):
            outcome = method(*args)
            if inspect.iscoroutine(outcome):
                yield outcome
            return


class ServiceContext:
    """
    What a service's instance can ask of its replica: `self.ctx`, and the constructor's parameter `ctx` if it has one.

    Attributes:
        name: The service's name.
        replica_index: Position in the service, from 0.
        logger: Logger named `sage.service.<name>`.
    """

    def __init__(self, name: str, replica_index: int, find: Callable[[str], Any]) -> None:
        self.name = name
        self.replica_index = replica_index
        self.logger = logging.getLogger(f"sage.service.{name}")
        self._find = find
        self._measured: Callable[[], Mapping[str, Any]] = dict
        self._metrics: Callable[[], OwnMetrics] | None = None

    @overload
    def service(self, name: str) -> ServiceHandle: ...
    @overload
    def service(self, name: str, cls: type[_Service]) -> _Service: ...

    def service(self, name: str, cls: type | None = None) -> Any:  # noqa: ARG002 - only type checkers read it
        """
        Return a handle to another service; its calls inherit the deadline of the present call.

        *cls* only tells type checkers its methods.

        Raises:
            ServiceNotFoundError: No such service.
        """
        return self._find(name)

    @cached_property
    def call_service(self) -> ServiceCaller:
        """
        Calls another service and waits: `call_service("kv", "k", method="get")`, or `call_service["kv"].get("k")`.

        As `Environment.call_service`. Calls inherit the deadline of the present call.
        """
        from sage_plugins.service.callers import ServiceCaller

        return ServiceCaller(self._find)

    @cached_property
    def call_service_async(self) -> AsyncServiceCaller:
        """As `call_service`, but returns a `concurrent.futures.Future` at once."""
        from sage_plugins.service.callers import AsyncServiceCaller

        return AsyncServiceCaller(self._find)

    @property
    def service_manager(self) -> ServiceManager:
        """The same calls with the names of SAGE's own services: `get_service_proxy`, `call_sync`, `call_async`."""
        from sage_plugins.service.callers import ServiceManager

        return ServiceManager(self._find)

    @cached_property
    def metrics(self) -> OwnMetrics:
        """
        The service's own metrics, for `/metrics`: `ctx.metrics.counter("hits", "Found at once.").inc()`.

        Outside an environment, as in a test, they count but are shown nowhere.
        """
        if self._metrics is not None:
            return self._metrics()
        from sage_plugins.service.own_metrics import OwnMetrics  # few services have any

        return OwnMetrics()

    def measure(self, measured: Callable[[], Mapping[str, Any]], metrics: Callable[[], OwnMetrics]) -> None:
        """Set the sources of `statistics` and `metrics`; for the replica's host."""
        self._measured = measured
        self._metrics = metrics

    def statistics(self) -> dict[str, Any]:
        """Return the counts of this replica, with SAGE's keys: `service_name`, `request_count`, `error_count`."""
        counts = self._measured()
        return {
            "service_name": self.name,
            "request_count": counts.get("request_count", 0),
            "error_count": counts.get("error_count", 0),
        }

    @property
    def cancelled(self) -> bool:
        """Whether the caller has given up the present call; long methods can then return early."""
        call = CURRENT.get()
        return call is not None and call.done()

    @property
    def request_id(self) -> str | None:
        """ID of the present call's request, such as an HTTP request; None if there is none."""
        return request_id()

    def remaining(self) -> float | None:
        """
        Return the seconds left for the present call, at least 0; None without a deadline or outside a call.

        0 once nobody waits for the answer.
        """
        call = CURRENT.get()
        if call is None:
            return None
        if call.settled():
            return 0.0
        if call.deadline == inf:
            return None
        return max(0.0, call.deadline - call.owner.clock.monotonic())


class ServiceFactory:
    """
    Builds one service's instances. `Environment.register_service` and its variants return it.

    Attributes:
        service_name: Its name.
        service_class: Its class.
        service_args: Positional arguments of the constructor.
        service_kwargs: Keyword arguments of the constructor.
    """

    def __init__(
        self,
        service_name: str,
        service_class: type,
        service_args: tuple[Any, ...] = (),
        service_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Store what is needed to build; builds nothing.

        Raises:
            ConfigError: The service cannot have that name.
            ValueError: *service_class* is not a class.
        """
        check_service_name(service_name)
        if not isinstance(service_class, type):
            msg = f"service {service_name!r}: give the class itself, got {service_class!r}"
            raise ValueError(msg)  # noqa: TRY004 - as in SAGE
        self.service_name = service_name
        self.service_class = service_class
        self.service_args = tuple(service_args)
        self.service_kwargs = dict(service_kwargs or {})

    def create_service(self, ctx: ServiceContext | None = None) -> Any:
        """
        Build a new instance. `self.ctx` is set before its constructor runs.

        If the constructor's first parameter is `service_factory`, as in SAGE's own services, it gets this factory,
        unless another argument was given for it; the instance also gets `service_name` and `get_statistics()`.

        Raises:
            BaseException: Whatever the constructor raises. A TypeError because of an argument that is a configuration
                field gets a note that says what to do.
        """
        cls = self.service_class
        kwargs = self.service_kwargs
        prepare = partial(_set_ctx, ctx=ctx)
        parameters = parameters_of(cls)
        if takes_factory(parameters, self.service_args, kwargs):
            kwargs = {**kwargs, "service_factory": self}
            prepare = partial(self._prepare_task, ctx=ctx)
        if ctx is not None and "ctx" not in kwargs and takes_ctx(parameters, len(self.service_args)):
            kwargs = {**kwargs, "ctx": ctx}
        try:
            if type(cls).__call__ is not type.__call__:  # the metaclass makes instances in its own way
                instance = cls(*self.service_args, **kwargs)
                prepare(instance)
                return instance
            # The same as type.__call__, but with the context set before __init__.
            new: Callable[..., Any] = cls.__new__
            instance = new(cls) if new is object.__new__ else new(cls, *self.service_args, **kwargs)
            if isinstance(instance, cls):
                prepare(instance)
                instance.__init__(*self.service_args, **kwargs)  # type: ignore[misc]
        except TypeError as error:
            self._hint(error)
            raise
        return instance

    def _prepare_task(self, instance: Any, ctx: ServiceContext | None) -> None:
        """Set the attributes that SAGE's classes with a `service_factory` expect before their constructor runs."""
        _set_ctx(instance, ctx)
        with suppress(AttributeError):  # the class has a property of that name, or __slots__ without it
            instance.service_name = self.service_name
        if ctx is not None and not hasattr(instance, "get_statistics"):
            with suppress(AttributeError):
                instance.get_statistics = ctx.statistics

    def _hint(self, error: TypeError) -> None:
        """Add a note to *error* if an argument was meant for the deployment; the note says what to do."""
        from sage_plugins.service.constructor import deployment_words, names_deployment

        # Python's error names the argument, unless the class has no constructor.
        nameless = self.service_class.__init__ is object.__init__  # type: ignore[misc] # looked at, not called
        meant = sorted(
            name for name in self.service_kwargs if names_deployment(name) and (nameless or f"'{name}'" in str(error))
        )
        if meant:
            error.add_note(f"{meant[0]!r} is a deployment setting: {deployment_words(meant[0])}")

    def __repr__(self) -> str:
        """Show name and class. The arguments are left out because they may contain secrets."""
        return f"<ServiceFactory {self.service_name!r} {self.service_class.__qualname__}>"


def own_factory(factory: Any) -> Any:
    """
    Return *factory*, or a `ServiceFactory` made from it if it is SAGE's and its class takes the factory as an argument.

    SAGE's `create_kv_service_factory` and similar functions return such factories. Settings that they put on the
    factory are copied, because pickling would lose them.
    """
    if isinstance(factory, ServiceFactory):
        return factory
    own = vars(factory) if hasattr(factory, "__dict__") else {}
    try:
        args, kwargs = tuple(own["service_args"]), dict(own["service_kwargs"])
        made = ServiceFactory(own["service_name"], own["service_class"], args, kwargs)
    except (KeyError, TypeError, ValueError):
        return factory
    if not takes_factory(parameters_of(made.service_class), args, kwargs):
        return factory
    vars(made).update({name: value for name, value in own.items() if name not in vars(made)})
    return made


def _set_ctx(instance: Any, ctx: ServiceContext | None) -> None:
    if ctx is None:
        return
    with suppress(AttributeError):  # a class whose __slots__ lack `ctx`; its constructor may still take it
        instance.ctx = ctx
