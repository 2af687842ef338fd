"""A user's service: how it is built, and what it gets to know."""

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

    Yields the coroutine of an `async def` to be run.
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
    What a replica knows of itself: `self.ctx` of the instance, and its constructor's `ctx` parameter if it has one.

    Attributes:
        name: Name of the service.
        replica_index: Position of this replica among the service's replicas, from 0.
        logger: Logger named `sage.service.<name>`.
    """

    def __init__(self, name: str, replica_index: int, find: Callable[[str], Any]) -> None:
        """
        Make the context of one replica.

        Args:
            name: Name of the service.
            replica_index: Position of the replica.
            find: Gives a handle to another service.
        """
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
        A handle to another service; *cls* only tells type checkers its methods.

        Calls through it end no later than the call that is being answered.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
        """
        return self._find(name)

    @cached_property
    def call_service(self) -> ServiceCaller:
        """
        Calls another service and waits: `call_service("kv", "k", method="get")`, or `call_service["kv"].get("k")`.

        As `Environment.call_service`; the remaining time of the present call bounds it.
        """
        from sage_plugins.service.callers import ServiceCaller

        return ServiceCaller(self._find)

    @cached_property
    def call_service_async(self) -> AsyncServiceCaller:
        """Like `call_service`, but gives a `concurrent.futures.Future` at once."""
        from sage_plugins.service.callers import AsyncServiceCaller

        return AsyncServiceCaller(self._find)

    @property
    def service_manager(self) -> ServiceManager:
        """The same calls by the names that SAGE's own services use: `get_service_proxy`, `call_sync`, `call_async`."""
        from sage_plugins.service.callers import ServiceManager

        return ServiceManager(self._find)

    @cached_property
    def metrics(self) -> OwnMetrics:
        """
        Metrics of the service's own, which `/metrics` shows: `ctx.metrics.counter("hits", "Found at once.").inc()`.

        Outside of an environment, as in a test, they count as well, and nobody is shown them.
        """
        if self._metrics is not None:
            return self._metrics()
        from sage_plugins.service.own_metrics import OwnMetrics  # few services have any

        return OwnMetrics()

    def measure(self, measured: Callable[[], Mapping[str, Any]], metrics: Callable[[], OwnMetrics]) -> None:
        """Have `statistics` include what *measured* gives, and *metrics* give `metrics`; for the replica's host."""
        self._measured = measured
        self._metrics = metrics

    def statistics(self) -> dict[str, Any]:
        """What this replica counted, by the keys of SAGE: `service_name`, `request_count`, `error_count`."""
        counts = self._measured()
        return {
            "service_name": self.name,
            "request_count": counts.get("request_count", 0),
            "error_count": counts.get("error_count", 0),
        }

    @property
    def cancelled(self) -> bool:
        """Whether the caller has given up the call that is being answered; long methods look at it and return early."""
        call = CURRENT.get()
        return call is not None and call.done()

    @property
    def request_id(self) -> str | None:
        """ID of the request on whose behalf the present call was made, such as one of HTTP; None if there is none."""
        return request_id()

    def remaining(self) -> float | None:
        """
        Seconds left for the call that is being answered, at least 0; None without a limit or outside a call.

        It is 0 once nobody waits for the answer any more.
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
    Builds the instances of one service; what `register_*` returns.

    Attributes:
        service_name: Name of the service.
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
        Remember how to build; builds nothing.

        Raises:
            ConfigError: The service cannot have that name.
            ValueError: The class is no class.
        """
        check_service_name(service_name)
        if not isinstance(service_class, type):
            msg = f"service {service_name!r}: give the class itself, got {service_class!r}"
            raise ValueError(msg)  # noqa: TRY004 - as in SAGE, and as for the name
        self.service_name = service_name
        self.service_class = service_class
        self.service_args = tuple(service_args)
        self.service_kwargs = dict(service_kwargs or {})

    def create_service(self, ctx: ServiceContext | None = None) -> Any:
        """
        A new instance, with `self.ctx` set before its constructor runs.

        A constructor whose first parameter is `service_factory`, as in SAGE's own services, gets this factory, unless
        something else was given for it. Such an instance has `service_name` and `get_statistics()` too.

        Raises:
            ConfigError: A TypeError of the constructor over an argument that is a configuration field, with the way
                out.
            BaseException: Whatever else the constructor raises.
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
            if type(cls).__call__ is not type.__call__:  # a metaclass that makes instances in its own way
                instance = cls(*self.service_args, **kwargs)
                prepare(instance)
                return instance
            # What type.__call__ does, with the context in between.
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
        """Give an instance that takes its factory what else SAGE's classes of that kind expect to have by then."""
        _set_ctx(instance, ctx)
        with suppress(AttributeError):  # it has a property of that name, or no place for it
            instance.service_name = self.service_name
        if ctx is not None and not hasattr(instance, "get_statistics"):
            with suppress(AttributeError):
                instance.get_statistics = ctx.statistics

    def _hint(self, error: TypeError) -> None:
        """Add the way out to an error over an argument that was meant for the deployment."""
        from sage_plugins.service.constructor import deployment_words, names_deployment

        # Python names the argument, unless the class has no constructor at all.
        nameless = self.service_class.__init__ is object.__init__  # type: ignore[misc] # looked at, not called
        meant = sorted(
            name for name in self.service_kwargs if names_deployment(name) and (nameless or f"'{name}'" in str(error))
        )
        if meant:
            error.add_note(f"{meant[0]!r} is a deployment setting: {deployment_words(meant[0])}")

    def __repr__(self) -> str:
        """Name and class, without the arguments: they may hold secrets."""
        return f"<ServiceFactory {self.service_name!r} {self.service_class.__qualname__}>"


def own_factory(factory: Any) -> Any:
    """
    *factory*, or one of ours like it, if it is of SAGE's kind and cannot build its class, which wants the factory.

    SAGE's `create_kv_service_factory` and its like give such factories. The settings that they hang on the factory,
    which its pickle would lose, come along.
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
    with suppress(AttributeError):  # a class with __slots__ and no place for it; it may still take ctx as an argument
        instance.ctx = ctx
