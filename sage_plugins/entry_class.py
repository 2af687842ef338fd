"""The classes that deployment files name, and where in the file it stands if one cannot be had."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sage_plugins.config_file import file_problem
from sage_plugins.errors import ConfigError, PlanError
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from sage_plugins.config_file import DeploymentFile, ServiceEntry

__all__ = ["at_positions", "load_class"]


def load_class(entry: ServiceEntry, file: DeploymentFile) -> type:
    """
    The class that *entry* names as `package.module:Class`.

    Raises:
        ConfigError: There is no such module or class, or importing it failed.
    """
    path = entry.class_path or ""
    module_name, _, class_name = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in class_name.split("."):
            found = getattr(found, part)
    except Exception as error:
        reason = f"cannot import {path!r}: {type(error).__name__}: {error}"
        raise _class_error(entry, file, reason, "check the name and that its folder is on sys.path") from error
    if not isinstance(found, type):
        raise _class_error(entry, file, f"{path!r} is {found!r}, not a class", "name a class")
    return found


def _class_error(entry: ServiceEntry, file: DeploymentFile, reason: str, fix: str) -> ConfigError:
    return at_positions(PlanError("", problems=[Problem("E703", "class", reason, fix)]), file, entry)


def at_positions(error: PlanError | ConfigError, file: DeploymentFile, entry: ServiceEntry) -> ConfigError:
    """The same problems, each with its place in the file."""
    problems = [file_problem(entry, problem, file.path) for problem in error.problems]
    errors = [
        str(problem) for problem, known in zip(problems, error.problems, strict=True) if known.severity == "error"
    ]
    return ConfigError("\n".join(errors), problems=problems)
