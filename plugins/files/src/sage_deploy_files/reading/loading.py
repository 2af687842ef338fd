"""The classes that deployment files name, and where in the file it stands if one cannot be had or made."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from sage_plugins.errors import text_of
from sage_plugins.service.factory import takes_ctx, takes_factory
from sage_plugins.texts import did_you_mean, one_line
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sage_deploy_files.reading.entries import ServiceEntry

__all__ = ["init_problems", "load_class"]


def load_class(entry: ServiceEntry) -> tuple[type | None, list[Problem]]:
    """
    The class that *entry* names as `package.module:Class`, with what is wrong with it or with the arguments for it.

    Importing it runs its module, which may do anything; whatever that raises is a problem.
    """
    path = entry.class_path or ""
    module_name, _, class_name = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a stranger's module may do anything
        return None, [_cannot_import(path, error)]
    try:
        for part in class_name.split("."):
            found = getattr(found, part)
    except KeyboardInterrupt:
        raise
    except AttributeError:
        near = did_you_mean(part, [name for name in dir(found) if not name.startswith("_")])
        fix = f"did you mean {near!r}?" if near else "check the name"
        owner = getattr(found, "__qualname__", module_name)
        return None, [Problem("E703", "class", f"cannot import {path!r}: {owner} has no {part!r}", fix)]
    except BaseException as error:  # noqa: BLE001 - a module's own `__getattr__` may do anything as well
        return None, [_cannot_import(path, error)]
    try:
        return _judged(entry, found)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a metaclass may raise anything when its class is looked at
        message = f"{path!r} cannot be looked at: {one_line(text_of(error))}"
        return None, [Problem("E703", "class", message, "correct its metaclass")]


def _judged(entry: ServiceEntry, found: Any) -> tuple[type | None, list[Problem]]:
    path = entry.class_path
    if not isinstance(found, type):
        return None, [Problem("E703", "class", f"{path!r} is {_kind(found)}, not a class", "name a class")]
    if inspect.isabstract(found):
        lacks = ", ".join(sorted(map(repr, getattr(found, "__abstractmethods__", ()))))
        fix = "name a class that implements them"
        return None, [Problem("E703", "class", f"{path!r} is an abstract class: it does not implement {lacks}", fix)]
    return found, [] if "init" in entry.bad else list(init_problems(found, entry.args, entry.kwargs))


def _cannot_import(path: str, error: BaseException) -> Problem:
    module_name = path.partition(":")[0]
    fix = f"correct what importing {module_name} runs into"
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
        fix = "check the name; the working directory and the folder of the file are searched first"
    return Problem("E703", "class", f"cannot import {path!r}: {one_line(text_of(error))}", fix)


def _kind(found: object) -> str:
    kind = type(found).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def init_problems(cls: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Problem]:
    """
    What is wrong with arguments for the constructor of *cls*, going by its signature; nothing is called.

    A parameter `ctx` that no argument takes gets the context, as in `ServiceFactory.create_service`.
    """
    try:
        signature = inspect.signature(cls)
    except Exception:  # noqa: BLE001 - a class in C without a signature, or one whose own signature raises anything
        return
    parameters = dict(signature.parameters)
    by_position = [
        each for each in parameters.values() if each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}
    ]
    takes_more = any(each.kind is each.VAR_POSITIONAL for each in parameters.values())
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    by_name = {
        name: each for name, each in parameters.items() if each.kind in {each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}
    }
    taken = {each.name for each in by_position[: len(args)]}
    who = f"the constructor of {cls.__qualname__}"
    if len(args) > len(by_position) and not takes_more:
        most = f"at most {len(by_position)} positional" if by_position else "no positional"
        message = f"{who} takes {most} {'argument' if len(by_position) == 1 else 'arguments'}, got {len(args)}"
        yield Problem("E704", f"init.args.{len(by_position)}", message, _signature_words(signature))
    for name in kwargs:
        if name in by_name and name in taken:
            position = [each.name for each in by_position].index(name)
            message = f"is given twice to {who}: by name and as args item {position}"
            yield Problem("E704", f"init.kwargs.{name}", message, "remove one of them", other=f"init.args.{position}")
        elif name not in by_name and not takes_any:
            near = did_you_mean(name, by_name)
            fix = f"did you mean {near!r}?" if near else _signature_words(signature)
            yield Problem("E704", f"init.kwargs.{name}", f"{who} has no argument {name!r}", fix)
    given = taken | set(kwargs) | ({"ctx"} if takes_ctx(cls, len(args)) else set())
    given |= {"service_factory"} if takes_factory(cls, args, kwargs) else set()
    needed = [*by_position, *(each for each in by_name.values() if each.kind is each.KEYWORD_ONLY)]
    missing = [each.name for each in needed if each.default is each.empty and each.name not in given]
    if missing:
        key = "init.kwargs" if kwargs else "init.args" if args else "class"
        names = ", ".join(repr(name) for name in missing)
        add = f"kwargs: {{{missing[0]}: ...}}" if missing[0] in by_name else "args: [...]"
        yield Problem("E704", key, f"{who} needs {names}", f"add to init: {{{add}}}")


def _signature_words(signature: inspect.Signature) -> str:
    names = [str(each).partition(":")[0].partition("=")[0].strip() for each in signature.parameters.values()]
    return f"it takes {', '.join(names)}" if names else "it takes none"
