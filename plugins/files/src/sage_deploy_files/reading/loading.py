"""Imports the classes that deployment files name, and reports those that cannot be imported or instantiated."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from sage_plugins.errors import text_of
from sage_plugins.texts import did_you_mean, one_line
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from sage_deploy_files.reading.entries import ServiceEntry

__all__ = ["load_class"]


def load_class(entry: ServiceEntry) -> tuple[type | None, list[Problem]]:
    """
    Import the class that *entry* names as `package.module:Class`. Return it, or None and what is wrong.

    Importing runs the module, which may do anything. Whatever it raises is returned as a problem.
    """
    path = entry.class_path or ""
    module_name, _, class_name = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - user code may raise anything
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
    except BaseException as error:  # noqa: BLE001 - a module's own `__getattr__` may raise anything
        return None, [_cannot_import(path, error)]
    try:
        return _judged(entry, found)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a metaclass may raise anything during the checks
        message = f"{path!r} cannot be inspected: {one_line(text_of(error))}"
        return None, [Problem("E703", "class", message, "correct its metaclass")]


def _judged(entry: ServiceEntry, found: Any) -> tuple[type | None, list[Problem]]:
    path = entry.class_path
    if not isinstance(found, type):
        return None, [Problem("E703", "class", f"{path!r} is {_kind(found)}, not a class", "name a class")]
    if inspect.isabstract(found):
        lacks = ", ".join(sorted(map(repr, getattr(found, "__abstractmethods__", ()))))
        fix = "name a class that implements them"
        return None, [Problem("E703", "class", f"{path!r} is an abstract class: it does not implement {lacks}", fix)]
    return found, []


def _cannot_import(path: str, error: BaseException) -> Problem:
    module_name = path.partition(":")[0]
    fix = f"fix the error that importing {module_name} raises"
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
        fix = "check the name; the working directory and the folder of the file are searched first"
    return Problem("E703", "class", f"cannot import {path!r}: {one_line(text_of(error))}", fix)


def _kind(found: object) -> str:
    kind = type(found).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"
