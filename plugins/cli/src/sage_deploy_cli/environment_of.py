"""The deployment file that a command works on: its arguments, and the environment made from it."""

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
    Load *file* into an environment of its own; nothing is imported and nothing started yet.

    The classes that the file names will be looked for in the working directory first, in the folder of the file second.

    Args:
        file: The deployment file.
        profile: Which of its profiles to apply.
        on_event: Told what becomes of each replica.
        import_classes: Whether they will be; if not, nothing is ever imported from these two folders, in which a module
            may have the name of one that this project needs.
        options: Of plugins for the whole environment, by ID; they beat the file's.

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
        profile: Which of its profiles to apply.
        import_classes: Whether the classes that a wrong file names are imported, to see what else is wrong.

    Raises:
        ConfigError: The file has problems. All are in it, those of plugins and classes too.
    """
    from sage_plugins.errors import ConfigError

    try:
        env.load_service_deployment_config(file, profile=profile)
    except ConfigError:
        from sage_deploy_files.reading.problems import FileProblem, refuse

        with redirect_stdout(sys.stderr):  # what a module prints when it is imported is no data
            problems = env.check(file, profile=profile, import_classes=import_classes)
        refuse(str(file), [problem for problem in problems if isinstance(problem, FileProblem)])


def _folders(file: Path) -> Iterator[str]:
    with suppress(FileNotFoundError):  # a working directory can be deleted under a process
        yield str(Path.cwd())
    with suppress(FileNotFoundError):
        yield os.path.dirname(os.path.realpath(file))  # noqa: PTH120 - a Path would be made for its text only
