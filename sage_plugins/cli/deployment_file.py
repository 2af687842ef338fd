"""The deployment file that a command works on: its arguments, and the environment made from it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.environment import Environment
    from sage_plugins.values import Event

__all__ = ["FILE", "PROFILE", "environment_of"]

FILE = click.argument("file", type=click.Path(path_type=Path))
PROFILE = click.option("--profile", help="Which of the file's `profiles` to apply.")


def environment_of(file: Path, profile: str | None, on_event: Callable[[Event], None] | None = None) -> Environment:
    """
    Load *file* into an environment of its own; nothing is imported and nothing started yet.

    The classes that the file names will be looked for in the working directory first, in the folder of the file second.

    Raises:
        ConfigError: The file has problems.
    """
    from sage_plugins.environment import Environment

    for folder in (file.resolve().parent, Path.cwd()):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    env = Environment(file.stem, on_event=on_event)
    env.load_service_deployment_config(file, profile=profile)
    return env
