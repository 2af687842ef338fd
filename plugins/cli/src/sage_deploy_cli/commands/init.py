"""`sage-deploy init`: the files of a small project to start from."""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from sage_deploy_cli.output import printable, write

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["command", "starter_files", "write_all"]

_DEPLOYMENT: Final = "service_deployment.yaml"
#: Where the first line of the deployment file tells editors to look for its schema.
_SCHEMA: Final = "service_deployment.schema.json"
#: Two equal files, so that the services have something to find.
_SAMPLES: Final = ("sample_1.txt", "sample_2.txt")


@click.command("init")
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite files of the same names.")
def command(folder: Path, *, force: bool) -> None:
    """
    Write a commented deployment file and two services to start from into FOLDER.

    Beside them stands the JSON Schema of such files, for editors; `schema` writes it anew when plugins come or go. Two
    small text files of equal content give the services something to find.

    Without FOLDER: into the working directory. No file is overwritten unless --force is given: if one is in the way,
    nothing is written.
    """
    files = starter_files()
    write_all(folder, files, force=force)
    for name in files:
        write(printable(f"wrote {folder / name}"))
    steps = [f"sage-deploy plan {_DEPLOYMENT}", f"sage-deploy up {_DEPLOYMENT} --once"]
    if not folder.samefile(os.curdir):
        steps.insert(0, f"cd {shlex.quote(str(folder))}")
    write("\nNext:")
    for step in steps:
        write(f"  {printable(step)}")


def starter_files() -> dict[str, str]:
    """Everything that `init` writes: the contents of each file by its name."""
    from importlib.resources import files

    from sage_deploy_files.describing.schema.document import schema_text
    from sage_plugins.plugins.registry import Registry

    folder = files("sage_deploy_cli") / "starter"
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in (_DEPLOYMENT, "services.py", *_SAMPLES)}
    return texts | {_SCHEMA: f"{schema_text(Registry.discover())}\n"}


def write_all(folder: Path, files: Mapping[str, str], *, force: bool) -> None:
    """
    Write all *files* into *folder*, or none.

    Args:
        folder: Made if it is not there.
        files: Their contents by name.
        force: Whether files of these names are overwritten.

    Raises:
        click.UsageError: Something is in the way; the message names all of it.
        click.ClickException: The folder cannot be written to.
    """
    in_the_way = [
        folder / name
        for name in files
        # With --force too: a folder of that name cannot be replaced by a file.
        if os.path.lexists(folder / name) and not (force and (folder / name).is_file())
    ]
    if in_the_way:
        names = ", ".join(map(str, in_the_way))
        ways = "move it away" if force else "name another folder, or overwrite with --force"
        raise click.UsageError(f"nothing was written: already there: {names} ({ways})")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Whatever may go wrong goes wrong here, before the first file is in its place.
        with tempfile.TemporaryDirectory(prefix=".sage-deploy-", dir=folder) as staging:
            for name, text in files.items():
                Path(staging, name).write_text(text, encoding="utf-8")
            for name in files:
                Path(staging, name).replace(folder / name)
    except OSError as error:
        raise click.ClickException(f"{folder} cannot be written to: {error.strerror}") from error
