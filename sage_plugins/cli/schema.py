"""`sage-deploy schema`: what editors need to know about deployment files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path

import click

from sage_plugins.cli.output import complain, progress, write

__all__ = ["command"]


@click.command("schema")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write FILE instead; it is replaced as a whole, or not at all.",
)
def command(output: Path | None) -> None:
    """
    Print the JSON Schema of deployment files, for editors.

    It knows the plugins that are installed: their IDs, and their options. Plugins that do not load are named on stderr.
    """
    from sage_plugins.plugins import Registry
    from sage_plugins.schema import deployment_schema

    registry = Registry.discover()
    text = json.dumps(deployment_schema(registry), indent=2, allow_nan=False)
    for failure in registry.failures:
        complain(f"the schema lacks what this offers: {failure}")
    if output is None:
        write(text)
        return
    try:
        _replace(output, f"{text}\n")
    except OSError as error:
        raise click.FileError(str(output), error.strerror) from error
    progress(f"wrote {output}")


def _replace(path: Path, text: str) -> None:
    """Write a file in one step, so that an editor never reads half of it."""
    path = path.resolve()  # a link stays one
    if path.exists() and not path.is_file():  # a device must not be replaced, which is what root could do
        raise OSError(errno.EINVAL, "is not a regular file")
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        # By name and not by `tempfile`, whose files only their owner may read.
        with new.open("x", encoding="utf-8") as file:
            file.write(text)
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
