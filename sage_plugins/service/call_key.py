"""
Finds a call's key: from `with_options(key=...)`, or else from an argument of the call.

A balancer names the argument in its attribute `key_argument`. The position of the argument in each method is found when
the service is composed. So each call costs only one look-up in a tuple or a dictionary. Services without such a
balancer pay nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from sage_plugins.errors import InvalidKeyError
from sage_plugins.service.methods import parameters_of
from sage_plugins.values import Problem

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.values import MethodPlan

__all__ = ["KeyOf", "compose_key_of", "missing_argument", "unhashable"]

#: Returns the key from a call's arguments, or None.
KeyOf: TypeAlias = "Callable[[Call], Hashable | None]"

#: Returns one argument of a call, from its positional and its keyword arguments.
_ReadArgument: TypeAlias = "Callable[[tuple[Any, ...], Mapping[str, Any]], Any]"


def unhashable(key: Any, what: str, **where: str | None) -> InvalidKeyError:
    """
    Return the error for a key that is not hashable.

    Args:
        key: The value that was given as the key.
        what: Where it comes from; the beginning of the message.
        where: Service and method, as far as known.
    """
    msg = f"{what}: a key must be hashable, got {type(key).__qualname__}; give a str, a number or a tuple of them"
    return InvalidKeyError(msg, **where)


def compose_key_of(argument: str, cls: type, methods: Sequence[MethodPlan]) -> KeyOf | None:
    """
    Return the function that finds the key of a call of this service.

    Args:
        argument: Name of the argument that is the key.
        cls: The service's class.
        methods: Its served methods.

    Returns:
        A function from a call to its key; None if no method has the argument. The key is None if the method has no such
        argument, or if the call leaves it out and it has no default. The function raises InvalidKeyError for a key that
        is not hashable.
    """
    found = {method.index: _read(cls, method.name, argument) for method in methods}
    readers = tuple(found[index] for index in sorted(found))
    # Partial functions instead of closures, because they are pickled for other processes that call the service.
    return partial(_key_of, argument, readers) if any(readers) else None


def _key_of(argument: str, readers: tuple[_ReadArgument | None, ...], call: Call) -> Hashable | None:
    method = call.method
    read = readers[method.index]
    if read is None:
        return None
    key: Hashable | None = read(call.args, call.kwargs)
    try:
        hash(key)
    except TypeError:
        service = call.owner.service
        what = f"{service}.{method.name}: argument '{argument}'"
        raise unhashable(key, what, service=service, method=method.name) from None
    return key


def _by_name(name: str, default: Any, _args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return kwargs.get(name, default)


def _by_position(position: int, default: Any, args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> Any:
    return args[position] if len(args) > position else default


def _by_either(position: int, name: str, default: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def missing_argument(argument: str, cls: type, methods: Sequence[MethodPlan], *, key: str) -> Problem:
    """
    Return the problem for a service that has no method with *argument*; it suggests the nearest spelling.

    Args:
        argument: Name of the argument that should be the key.
        cls: The service's class.
        methods: Its served methods.
        key: Path of the name inside the service's configuration.
    """
    from sage_plugins.texts import did_you_mean

    names = sorted({name for method in methods for name in _parameters(cls, method.name)})
    near = did_you_mean(argument, names)
    return Problem(
        "E507",
        key,
        f"no method of {cls.__qualname__} has an argument {argument!r} that could be the key",
        f"did you mean {near!r}?" if near else f"its methods have {', '.join(names) or 'no arguments'}",
    )


def _parameters(cls: type, name: str) -> dict[str, inspect.Parameter]:
    """Return the parameters of a method by name, in order; empty if it has no readable signature."""
    return {parameter.name: parameter for parameter in parameters_of(cls, name) or ()}


def _read(cls: type, name: str, argument: str) -> _ReadArgument | None:
    """Return a function that reads *argument* from a call's arguments; None if the method does not have it."""
    parameters = _parameters(cls, name)
    parameter = parameters.get(argument)
    named_at_will = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    if parameter is None or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return partial(_by_name, argument, None) if named_at_will else None
    default = None if parameter.default is parameter.empty else parameter.default
    if parameter.kind is parameter.KEYWORD_ONLY:
        return partial(_by_name, argument, default)
    position = list(parameters).index(argument)
    if parameter.kind is parameter.POSITIONAL_ONLY:
        return partial(_by_position, position, default)
    return partial(_by_either, position, argument, default)
