"""
The methods of a service as attributes of its handle: `handle.get("k")`, `handle.aio.get("k")`, `dir(handle)`.

The kind of the method decides what a call returns. The attribute lookup takes the kind from the method's plan once the
handle is bound, and before that from the class.
"""

from __future__ import annotations

import inspect
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, Never, TypeAlias

from sage_plugins.routing.handles.binding import not_served
from sage_plugins.service.methods import is_served, kind_of, served_names
from sage_plugins.values import GENERATORS, MethodKind

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from sage_plugins.call.stream_reader import AsyncServiceStream
    from sage_plugins.routing.handles.handle import ServiceHandle
    from sage_plugins.values import MethodPlan

__all__ = ["AioMethods", "attribute_call", "find_method", "read_only", "served_by"]


def find_method(
    service: str, name: str, plans: Mapping[str, MethodPlan] | None, cls: type | None
) -> tuple[MethodKind | None, type | None]:
    """
    Return the kind of the method *name* (None if it is not known yet) and the class that has the method.

    Args:
        service: Its name.
        name: The method's name.
        plans: The method plans, as far as they are known.
        cls: The service's class; None if this process does not know it.

    Raises:
        MethodNotFoundError: The service has no such method.
    """
    plan = None if plans is None else plans.get(name)
    has = cls if cls is not None and is_served(cls, name) else None
    if plan is not None:
        return plan.kind, has
    if has is not None:
        return kind_of(getattr(has, name)), has
    if cls is None:  # a service deployed elsewhere may have changed: the call itself finds out
        return None, None
    raise not_served(service, name, dict.fromkeys(served_names(cls)))


def served_by(plans: Mapping[str, MethodPlan] | None, cls: type | None) -> list[str]:
    """Return the names of a service's methods, as far as they are known."""
    return list(plans or ()) if cls is None else served_names(cls)


def attribute_call(handle: ServiceHandle, name: str, kind: MethodKind | None, cls: type | None) -> Callable[..., Any]:
    """Return the method *name* as a function that shows the signature and the docstring of the method in *cls*."""
    method: Callable[..., Any]
    if kind is MethodKind.SYNC:

        def method(*args: Any, **kwargs: Any) -> Any:
            return handle.call(name, *args, **kwargs)

    elif kind is MethodKind.ASYNC:

        def method(*args: Any, **kwargs: Any) -> Any:
            return handle._begin(name, args, kwargs)  # noqa: SLF001 - belongs to the handle

    elif kind is MethodKind.GENERATOR:

        def method(*args: Any, **kwargs: Any) -> Any:
            return handle.stream(name, *args, **kwargs)

    elif kind is MethodKind.ASYNC_GENERATOR:

        def method(*args: Any, **kwargs: Any) -> Any:
            return handle.astream(name, *args, **kwargs)

    else:

        def method(*args: Any, **kwargs: Any) -> Any:
            found = handle._bound_kind(name)  # noqa: SLF001 - belongs to the handle
            return attribute_call(handle, name, found, None)(*args, **kwargs)

    return _shown(method, handle, name, cls)


def aio_call(handle: ServiceHandle, name: str, kind: MethodKind | None, cls: type | None) -> Callable[..., Any]:
    """Return the method *name* as a function that never blocks: it returns an awaitable or an asynchronous iterator."""
    verb: Callable[..., Any]
    if kind is None:

        def verb(name: str, /, *args: Any, **kwargs: Any) -> Any:
            return _Either(handle, name, args, kwargs)

    else:
        verb = handle.astream if kind in GENERATORS else handle.acall

    def method(*args: Any, **kwargs: Any) -> Any:
        return verb(name, *args, **kwargs)

    return _shown(method, handle, name, cls)


def _shown(method: Any, handle: ServiceHandle, name: str, cls: type | None) -> Callable[..., Any]:
    """Give *method* what `help` and `inspect.signature` show."""
    method.__name__ = name
    method.__qualname__ = f"{handle._name}.{name}"  # noqa: SLF001 - belongs to the handle
    if cls is not None:
        own = getattr(cls, name)
        found = inspect.getattr_static(cls, name)
        method.__doc__ = getattr(own, "__doc__", None)
        method.__module__ = cls.__module__
        # `inspect.signature` follows this, and leaves out the first parameter of a bound method. It is bound to the
        # class because this process may have no instance; nothing ever calls it.
        takes_instance = hasattr(type(found), "__get__") and not isinstance(found, (staticmethod, classmethod))
        method.__wrapped__ = MethodType(own, cls) if takes_instance else own
    return method  # type: ignore[no-any-return] # takes attributes only as Any


#: The plans and the class that were known when a method was made, and the method.
_Made: TypeAlias = tuple["Mapping[str, MethodPlan] | None", type | None, "Callable[..., Any] | None"]
_NONE: Final[_Made] = (None, None, None)


class AioMethods:
    """
    The methods of a service for coroutines: `handle.aio`.

    Each returns an awaitable; a generator method returns an asynchronous iterator. They never block the event loop,
    not even while the queue is full or the service is being deployed.
    """

    __slots__ = ("_handle", "_made")

    _handle: ServiceHandle
    _made: dict[str, _Made]  # by name

    def __init__(self, handle: ServiceHandle) -> None:
        object.__setattr__(self, "_handle", handle)
        object.__setattr__(self, "_made", {})

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return the served method *name*."""
        if name.startswith("_"):
            raise AttributeError(name)
        handle = self._handle
        known = handle._known()  # noqa: SLF001 - belongs to the handle
        plans, cls, method = self._made.get(name, _NONE)
        if method is None or plans is not known[0] or cls is not known[1]:
            found = find_method(handle._name, name, *known)  # noqa: SLF001 - as above
            method = aio_call(handle, name, *found)
            self._made[name] = *known, method
        return method

    def __setattr__(self, name: str, value: Never) -> Never:
        """Raise AttributeError."""
        raise read_only("handle.aio", name)

    def __delattr__(self, name: str) -> Never:
        """Raise AttributeError."""
        raise read_only("handle.aio", name)

    def __dir__(self) -> list[str]:
        own = [name for name in dir(type(self)) if name.startswith("__")]
        return [*own, *self._handle._served()]  # noqa: SLF001 - belongs to the handle

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._handle!r}>"


class _Either:
    """A call to await or to iterate over: it is not known yet whether its method is a generator."""

    def __init__(self, handle: ServiceHandle, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._call = (name, *args)
        self._handle = handle
        self._kwargs = kwargs

    def __await__(self) -> Generator[Any, None, Any]:
        """Make the call and await its result."""
        return self._handle.acall(*self._call, **self._kwargs).__await__()

    def __aiter__(self) -> AsyncServiceStream:
        return self._handle.astream(*self._call, **self._kwargs)


def read_only(owner: str, name: str) -> AttributeError:
    """Return the error for assigning or deleting an attribute of a handle."""
    msg = (
        f"{owner} shows the methods of the service and takes no attributes of its own, such as {name!r}. Keep the "
        "value elsewhere; to change the service, give it a method for that"
    )
    return AttributeError(msg, name=name)
