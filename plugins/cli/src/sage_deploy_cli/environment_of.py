"""Loads the deployment file that a command gets, and declares the arguments that commands share."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sage_plugins.environment.environment import Environment
    from sage_plugins.values import Event

__all__ = ["FILE", "PROFILE", "environment_of", "load"]

FILE = click.argument("file", type=click.Path(path_type=Path))
PROFILE = click.option("--profile", help="Apply this profile of the file.")


def environment_of(
    file: Path,
    profile: str | None,
    on_event: Callable[[Event], None] | None = None,
    *,
    import_classes: bool = True,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Environment:
    """
    Load *file* into a new environment. Nothing is imported or started yet.

    Classes that the file names are searched first in the working directory, then in the folder of the file.

    Args:
        file: The deployment file.
        profile: The profile of the file to apply.
        on_event: Called with each event of a replica.
        import_classes: Whether classes will be imported. If False, these two folders do not join `sys.path`: their
            modules could shadow modules that this project needs.
        options: Plugin options for the whole environment, by plugin ID. They override the file's.

    Raises:
        ConfigError: The file has problems.
    """
    from sage_plugins.environment.environment import Environment

    env = Environment(file.stem, on_event=on_event, options=options)
    if import_classes:
        folders = list(dict.fromkeys(_folders(file)))
        sys.path[:] = [*folders, *(folder for folder in sys.path if folder not in folders)]
    load(env, file, profile, import_classes=import_classes)
    return env


def load(env: Environment, file: Path, profile: str | None, *, import_classes: bool = True) -> None:
    """
    Load *file* into *env*.

    Args:
        env: The environment.
        file: The deployment file.
        profile: The profile of the file to apply.
        import_classes: Whether to import the classes that a wrong file names, to find further problems.

    Raises:
        ConfigError: The file has problems. It lists all of them, including those of plugins and classes.
    """
    from sage_plugins.errors import ConfigError

    try:
        env.load_service_deployment_config(file, profile=profile)
    except ConfigError:
        from sage_deploy_files.reading.problems import FileProblem, refuse

        with redirect_stdout(sys.stderr):  # what modules print on import is no data
            problems = env.check(file, profile=profile, import_classes=import_classes)
        refuse(str(file), [problem for problem in problems if isinstance(problem, FileProblem)])


def _folders(file: Path) -> Iterator[str]:
    with suppress(FileNotFoundError):  # a process keeps running when its working directory is deleted
        yield str(Path.cwd())
    with suppress(FileNotFoundError):
        yield os.path.dirname(os.path.realpath(file))  # noqa: PTH120 - a Path would be created for its text only
