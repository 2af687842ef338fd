"""Checks the arguments of a service against its constructor, and tells which arguments the core adds."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from sage_plugins.config.service_config import fields
from sage_plugins.texts import did_you_mean
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["deployment_words", "init_problems", "names_deployment", "parameters_of", "takes_ctx", "takes_factory"]


def init_problems(
    cls: type, args: Sequence[Any], kwargs: Mapping[str, Any], *, in_code: bool = False
) -> Iterator[Problem]:
    """
    Yield the problems of arguments for the constructor of *cls*. Reads only its signature; calls nothing.

    A parameter `ctx` without an argument gets the context, as in `ServiceFactory.create_service`.

    Args:
        cls: The class.
        args: Positional arguments.
        kwargs: Keyword arguments.
        in_code: True if the class was registered in code, False if in a file.
    """
    if inspect.isabstract(cls):
        lacks = ", ".join(sorted(map(repr, getattr(cls, "__abstractmethods__", ()))))
        message = f"{cls.__qualname__} is an abstract class: it does not implement {lacks}"
        yield Problem("E703", "class", message, "register a class that implements them")
        return
    parameters = parameters_of(cls)
    if parameters is None:
        return
    by_position = [each for each in parameters if each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}]
    takes_more = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    by_name = {each.name: each for each in parameters if each.kind in {each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}}
    taken = {each.name for each in by_position[: len(args)]}
    who = f"the constructor of {cls.__qualname__}"
    if len(args) > len(by_position) and not takes_more:
        most = f"at most {len(by_position)} positional" if by_position else "no positional"
        message = f"{who} takes {most} {'argument' if len(by_position) == 1 else 'arguments'}, got {len(args)}"
        yield Problem("E704", f"init.args.{len(by_position)}", message, _signature_words(parameters))
    for name in kwargs:
        if name in by_name and name in taken:
            position = [each.name for each in by_position].index(name)
            message = f"is given twice to {who}: by name and as args item {position}"
            yield Problem("E704", f"init.kwargs.{name}", message, "remove one of them", other=f"init.args.{position}")
        elif name not in by_name and not takes_any:
            near = did_you_mean(name, by_name)
            fix = f"did you mean {near!r}?" if near else _signature_words(parameters)
            if in_code and names_deployment(name):
                fix = deployment_words(name)
            yield Problem("E704", f"init.kwargs.{name}", f"{who} has no argument {name!r}", fix)
    given = taken | set(kwargs) | ({"ctx"} if takes_ctx(parameters, len(args)) else set())
    given |= {"service_factory"} if takes_factory(parameters, args, kwargs) else set()
    needed = [*by_position, *(each for each in by_name.values() if each.kind is each.KEYWORD_ONLY)]
    missing = [each.name for each in needed if each.default is each.empty and each.name not in given]
    if missing:
        key = "init.kwargs" if kwargs else "init.args" if args else "class"
        names = ", ".join(repr(name) for name in missing)
        add = f"kwargs: {{{missing[0]}: ...}}" if missing[0] in by_name else "args: [...]"
        fix = f"give it where {cls.__qualname__} is registered" if in_code else f"add to init: {{{add}}}"
        yield Problem("E704", key, f"{who} needs {names}", fix)


def _signature_words(parameters: Sequence[inspect.Parameter]) -> str:
    names = [str(each).partition(":")[0].partition("=")[0].strip() for each in parameters]
    return f"it takes {', '.join(names)}" if names else "it takes none"


def names_deployment(name: str) -> bool:
    """Whether *name* is a deployment setting, given to a constructor by mistake."""
    return name == "deployment_config" or name in fields()


def deployment_words(name: str) -> str:
    """Return what to do about the deployment setting *name* that was given to a constructor."""
    given = "..." if name == "deployment_config" else f"ServiceDeploymentConfig({name}=...)"
    return (
        "register_service passes all its arguments to the constructor: use "
        f"register_service_with_config(..., deployment_config={given})"
    )


def takes_factory(
    parameters: Sequence[inspect.Parameter] | None, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> bool:
    """Whether a constructor's first parameter is `service_factory`, and no argument is given for it."""
    if args or "service_factory" in kwargs:
        return False
    first = next(iter(parameters or ()), None)
    return first is not None and first.name == "service_factory" and first.kind is first.POSITIONAL_OR_KEYWORD


def takes_ctx(parameters: Sequence[inspect.Parameter] | None, positional: int) -> bool:
    """Whether a constructor has a parameter `ctx` that can be given by name and gets no positional argument."""
    for index, parameter in enumerate(parameters or ()):
        if parameter.name == "ctx" and parameter.kind in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            return parameter.kind is parameter.KEYWORD_ONLY or index >= positional
    return False


def parameters_of(cls: type) -> tuple[inspect.Parameter, ...] | None:
    """Return the parameters of the constructor of *cls*; None if it has no readable signature."""
    try:
        looked_at: Any = cls
        own = looked_at.__init__ is not object.__init__ or looked_at.__new__ is not object.__new__
        if type(cls) is type and not own and not hasattr(cls, "__signature__"):
            return ()  # `inspect.signature` takes 0.1 ms for the same answer
        return tuple(inspect.signature(cls).parameters.values())
    except Exception:  # noqa: BLE001 - a class in C without a signature, or one whose own signature raises anything
        return None
