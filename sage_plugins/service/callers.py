"""
Calls in both styles of SAGE: `call_service["kv"].get("k")` and `call_service("kv", "k", method="get")`.

The errors that these calls raise are RuntimeErrors too, see `runtime_errors`.
"""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, overload

from sage_plugins.errors import MethodNotFoundError
from sage_plugins.service.runtime_errors import as_runtime_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from sage_plugins.call.call import Call
    from sage_plugins.routing.handles.handle import ServiceHandle

__all__ = ["AsyncServiceCaller", "AsyncServiceMethods", "ServiceCaller", "ServiceManager", "ServiceMethods"]

#: If no method is named, the first of these that the service has is called.
DEFAULT_METHODS: Final = ("process", "execute", "call")

#: Maximum number of cached handles with their own timeout. A program has few timeouts, unless it computes them.
_KEPT: Final = 64


class _Handles:
    """Caches the handles of one caller. Safe from any thread: at worst, a handle is made twice."""

    def __init__(self, find: Callable[[str], ServiceHandle]) -> None:
        self._find = find
        self._found: dict[str, ServiceHandle] = {}
        self._timed: dict[tuple[str, float], ServiceHandle] = {}
        self._default: dict[str, str] = {}

    def get(self, name: str, timeout: float | None) -> ServiceHandle:
        """Return a handle to the service *name*; *timeout* None means the configured timeout."""
        if timeout is None:
            handle = self._found.get(name)
            if handle is None:
                handle = self._found[name] = self._find(name)
            return handle
        with suppress(TypeError):  # not hashable, so not a number: `with_options` raises the right error below
            handle = self._timed.get((name, timeout))
            if handle is not None:
                return handle
        handle = self.get(name, None).with_options(timeout=timeout)
        if len(self._timed) >= _KEPT:
            self._timed.clear()
        self._timed[name, timeout] = handle
        return handle

    def by_default(self, name: str, verb: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the first of `DEFAULT_METHODS` that the service *name* has. Try the one found earlier first."""
        known = self._default.get(name)
        missing: MethodNotFoundError | None = None
        for method in DEFAULT_METHODS if known is None else (known, *DEFAULT_METHODS):
            try:
                answer = verb(method, *args, **kwargs)
            except MethodNotFoundError as error:
                # The error may come from a nested call that the method itself made.
                if error.service != name or error.method != method:
                    raise
                missing = missing or error
            else:
                self._default[name] = method
                return answer
        assert missing is not None  # noqa: S101 - for the type checker: there are methods to try
        raise missing


class _Caller:
    """The common base of both callers."""

    #: Name of the handle's method that makes the call.
    _verb: str

    def __init__(self, find: Callable[[str], ServiceHandle]) -> None:
        """Make a caller. *find* returns a handle to a service by name, or raises an error that says why not."""
        self._handles = _Handles(find)

    def _make(
        self, name: str, method: str | None, timeout: float | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Make the call. If possible, an exception that it raises is a RuntimeError too."""
        try:
            verb = getattr(self._handles.get(name, timeout), self._verb)
            if method is None:
                return self._handles.by_default(name, verb, args, kwargs)
            return verb(method, *args, **kwargs)
        except Exception as error:
            failure = as_runtime_error(error)
            if failure is error:
                raise
        try:  # outside the `except`, so that the original error does not become this one's __context__
            raise failure
        finally:
            del failure  # breaks the cycle traceback -> frame -> exception

    def _itself(self, method: str | None, kwargs: dict[str, Any]) -> Self:
        if method is not None or kwargs:
            msg = 'name the service first: call_service("kv", ...)'
            raise TypeError(msg)
        return self

    def __repr__(self) -> str:
        return f'<{type(self).__name__}: caller("service", ..., method="method") or caller["service"].method(...)>'


class ServiceCaller(_Caller):
    """
    Calls services by name and waits for the answers: `call_service` of environments and contexts. Thread-safe.

    `caller("kv", "k", method="get", timeout=2)` and `caller["kv"].get("k", timeout=2)` are the same call. A failed call
    raises its error with its own type, if possible also as a RuntimeError.
    """

    _verb = "call"

    @overload
    def __call__(self, /) -> Self: ...
    @overload
    def __call__(
        self, name: str, /, *args: Any, method: str | None = None, timeout: float | None = None, **kwargs: Any
    ) -> Any: ...

    def __call__(
        self, name: str = "", /, *args: Any, method: str | None = None, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """
        Call a service and wait for the answer.

        *timeout* and *method* do not reach the method; every other argument does.

        Args:
            name: The service's name. A call without any argument returns the caller itself, because SAGE's
                `BaseService` of 2025 indexes the result of `ctx.call_service()`.
            *args: Positional arguments of the method.
            method: The method's name; None for the first of `process`, `execute` and `call` that the service has.
            timeout: Seconds from call to answer; None for the configured timeout.
            **kwargs: Keyword arguments of the method.

        Raises:
            TypeError: No service is named.
            ServiceNotFoundError: No service of that name is registered.
            ConfigError: *timeout* is not a number of seconds.
            BaseException: As for `ServiceHandle.call`.
        """
        if not name:
            return self._itself(method, kwargs)
        return self._make(name, method, timeout, args, kwargs)

    def __getitem__(self, name: str) -> ServiceMethods:
        """Return an object with the methods of the service *name*. The service is looked up at each method call."""
        return ServiceMethods(self._make, name)


class AsyncServiceCaller(_Caller):
    """
    As `ServiceCaller`, but returns a `concurrent.futures.Future` at once: `call_service_async`.

    If the call cannot be made, for example because there is no such service, the error is raised. Later errors are in
    the future.
    """

    _verb = "submit"

    @overload
    def __call__(self, /) -> Self: ...
    @overload
    def __call__(
        self, name: str, /, *args: Any, method: str | None = None, timeout: float | None = None, **kwargs: Any
    ) -> Future[Any]: ...

    def __call__(
        self, name: str = "", /, *args: Any, method: str | None = None, timeout: float | None = None, **kwargs: Any
    ) -> Self | Future[Any]:
        """
        Start a call of a service; the arguments are as for `ServiceCaller`.

        Raises:
            TypeError: No service is named.
            ServiceNotFoundError: No such service.
            ConfigError: *timeout* is not a number of seconds.
            CallTimeoutError, OverloadedError, ServiceStoppedError, MethodNotFoundError, TypeError: As for
                `ServiceHandle.submit`.
        """
        if not name:
            return self._itself(method, kwargs)
        return self._start(name, method, timeout, args, kwargs)

    def __getitem__(self, name: str) -> AsyncServiceMethods:
        """As `ServiceCaller.__getitem__`; the methods return futures."""
        return AsyncServiceMethods(self._start, name)

    def _start(
        self, name: str, method: str | None, timeout: float | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Any]:
        return _Answer(self._make(name, method, timeout, args, kwargs))


class ServiceManager:
    """Both callers, with the method names of SAGE's `ctx.service_manager`."""

    def __init__(self, find: Callable[[str], ServiceHandle]) -> None:
        self._sync = ServiceCaller(find)
        self._async = AsyncServiceCaller(find)

    def get_service_proxy(self, service_name: str) -> ServiceMethods:
        """Return `call_service[service_name]`."""
        return self._sync[service_name]

    def call_sync(
        self, service_name: str, method_name: str, /, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Return `call_service[service_name].<method_name>(...)`."""
        return getattr(self._sync[service_name], method_name)(*args, timeout=timeout, **kwargs)

    def call_async(
        self, service_name: str, method_name: str, /, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Future[Any]:
        """Return `call_service_async[service_name].<method_name>(...)`."""
        future: Future[Any] = getattr(self._async[service_name], method_name)(*args, timeout=timeout, **kwargs)
        return future


class ServiceMethods:
    """
    One service's methods: `caller["kv"]`.

    All arguments except `timeout` reach the method.
    """

    def __init__(self, make: Callable[..., Any], name: str) -> None:
        """Only for `ServiceCaller`: *make* makes a call of the service *name*."""
        self._make = make
        self._name = name

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """Return the method of that name as a callable. The service is looked up when it is called."""
        if method.startswith("_"):
            raise AttributeError(method)
        make, name = self._make, self._name

        def call(*args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
            return make(name, method, timeout, args, kwargs)

        call.__name__ = method
        call.__qualname__ = f"{name}.{method}"
        return call

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._name!r}>"


class AsyncServiceMethods(ServiceMethods):
    """As `ServiceMethods`, for `AsyncServiceCaller`: the methods return futures."""

    def __getattr__(self, method: str) -> Callable[..., Future[Any]]:
        """As `ServiceMethods.__getattr__`."""
        return super().__getattr__(method)


class _Answer(Future[Any]):
    """The future of a call; its exception is a RuntimeError too."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call
        call.add_done_callback(self._follow)

    def _follow(self, call: Call) -> None:
        error = call.exception_now()
        if call.cancelled():
            super().cancel()
            self.set_running_or_notify_cancel()
        elif error is None:
            self.set_result(call.result())
        else:
            self.set_exception(as_runtime_error(error))

    # Wait on the call first: it watches the deadline and detects a method that waits for itself.

    def result(self, timeout: float | None = None) -> Any:
        self._call.exception(timeout)
        return super().result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._call.exception(timeout)
        return super().exception()

    def cancel(self) -> bool:
        return self._call.cancel()

    def cancelled(self) -> bool:
        return self._call.cancelled()

    def running(self) -> bool:
        return self._call.running()

    def done(self) -> bool:
        return self._call.done()
