"""`sage-deploy init`: writes the files of a small starter project, or of a plugin."""

from __future__ import annotations

import keyword
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from secrets import token_hex
from textwrap import indent
from typing import TYPE_CHECKING, Final

import click

from sage_deploy_cli.output import printable, write

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["command", "plugin_files", "starter_files", "write_all"]

_DEPLOYMENT: Final = "service_deployment.yaml"
#: The schema file. The first line of the deployment file points editors to it.
_SCHEMA: Final = "service_deployment.schema.json"
#: Two equal files, so that the services find something.
_SAMPLES: Final = ("sample_1.txt", "sample_2.txt")


#: The kinds for `--plugin`: the name of the kind in a sentence, and how a configuration names a plugin's ID.
_KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "target": ("Target", "deployment:\n  target: {id}"),
    "strategy": ("Threading strategy", "deployment:\n  threading_strategy: {id}"),
    "balancer": ("Load balancer", "deployment:\n  replicas: 2\n  load_balancer: {id}"),
    "monitor": ("Monitor", "monitoring:\n  monitors: [metrics, health, {id}]"),
    "autoscaler": ("Autoscaler", "autoscale: {{policy: {id}, max: 4}}"),
    "extension": ("Extension", "options:\n  {id}: {{path: status.json}}"),
}

#: Placeholders in the templates: names of distribution, ID and class.
_NAME, _ID, _CLASS = "example-plugin", "example_plugin", "ExamplePlugin"

#: Names that are valid for a distribution and, with underscores, as an ID.
_PLUGIN_NAME: Final = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"


@click.command("init")
@click.argument("folder", default=".", type=click.Path(path_type=Path), metavar="[FOLDER|NAME]")
@click.option("--plugin", "kind", type=click.Choice(list(_KINDS)), help="Write a plugin of this kind, called NAME.")
@click.option("--force", is_flag=True, help="Overwrite files of the same names.")
def command(folder: Path, kind: str | None, *, force: bool) -> None:
    """
    Write a project to start from: services in FOLDER, or with --plugin a plugin NAME.

    Services: a commented deployment file, two services, the JSON Schema of deployment files for editors, and two text
    files of equal content for the services to find. The default FOLDER is the working directory.

    Plugin: the folder NAME with a distribution of this name that works as it is: a module, tests that inherit the
    conformance suite of its kind, a README, and a file for continuous integration. Its ID is NAME with underscores.

    Overwrites no file unless --force is given. If a file is in the way, nothing is written.
    """
    if kind is None:
        files = starter_files()
        steps = [f"sage-deploy plan {_DEPLOYMENT}", f"sage-deploy up {_DEPLOYMENT} --once"]
    else:
        files = plugin_files(kind, str(folder))
        steps = [
            'python -m pip install --upgrade "pip>=25.1"',
            "python -m pip install --editable . --group test",
            "pytest",
            f"sage-deploy plugins check {folder}",
        ]
    write_all(folder, files, force=force)
    for name in files:
        write(printable(f"wrote {folder / name}"))
    if not folder.samefile(os.curdir):
        steps.insert(0, f"cd {shlex.quote(str(folder))}")
    write("\nNext:")
    for step in steps:
        write(f"  {printable(step)}")


def starter_files() -> dict[str, str]:
    """Return the content of each file that `init` writes, by name."""
    from importlib.resources import files

    from sage_deploy_files.describing.schema.document import schema_text
    from sage_plugins.plugins.registry import Registry

    folder = files("sage_deploy_cli") / "starter"
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in (_DEPLOYMENT, "services.py", *_SAMPLES)}
    return texts | {_SCHEMA: f"{schema_text(Registry.discover())}\n"}


def plugin_files(kind: str, name: str) -> dict[str, str]:
    """
    Return the content of each file that `init --plugin` writes, by its path in the plugin's folder.

    Args:
        kind: A key of `_KINDS`.
        name: Name of the distribution: lower-case letters, digits, and single hyphens between them.

    Raises:
        click.UsageError: *name* is not valid, or would hide a module of Python.
    """
    if name == ".":
        raise click.UsageError(f"the plugin needs a name: sage-deploy init --plugin {kind} acme-{kind}")
    if keyword.iskeyword(name) or name in sys.stdlib_module_names:
        raise click.UsageError(f"{name!r} is a name of Python's own: choose another, such as acme-{name}")
    if not re.fullmatch(_PLUGIN_NAME, name):
        message = f"{name!r} cannot be the name of a plugin: use small letters, digits and hyphens, such as acme-{kind}"
        raise click.UsageError(message)
    from importlib.resources import files

    kit = files("sage_deploy_cli") / "plugin_kit"
    id = name.replace("-", "_")
    called, use = _KINDS[kind]
    use = use.format(id=id)
    words = {
        "KIND": called,
        "USE": use
        if kind == "extension"
        else f"services:\n  my_service:\n    class: my_module:MyClass\n{indent(use, '    ')}",
        " SUITE": "" if kind == "extension" else f" They inherit the conformance suite of every {called.lower()}.",
        _NAME: name,
        _ID: id,
        _CLASS: "".join(part.capitalize() for part in name.split("-")),
    }
    pattern = re.compile("|".join(words))

    def filled(template: str) -> str:
        return pattern.sub(lambda found: words[found[0]], (kit / template).read_text(encoding="utf-8"))

    return {
        "pyproject.toml": filled("pyproject.toml"),
        "README.md": filled("README.md"),
        f"{id}.py": filled(f"{kind}.py"),
        f"test_{id}.py": filled(f"{kind}_tests.py"),
        ".github/workflows/test.yml": filled("test.yml"),
        ".gitignore": ".venv/\ndist/\n__pycache__/\n",
    }


def write_all(folder: Path, files: Mapping[str, str], *, force: bool) -> None:
    """
    Write all *files* into *folder*, or none.

    Args:
        folder: Created if it does not exist.
        files: Contents by name.
        force: Whether to overwrite existing files.

    Raises:
        click.UsageError: Files are in the way. The message names all of them.
        click.ClickException: The folder cannot be written to.
    """
    in_the_way = [
        folder / name
        for name in files
        # Also checked with --force: a file cannot replace a folder.
        if os.path.lexists(folder / name) and not (force and (folder / name).is_file())
    ]
    if in_the_way:
        names = ", ".join(map(str, in_the_way))
        ways = "move it away" if force else "name another folder, or overwrite with --force"
        raise click.UsageError(f"nothing was written: already there: {names} ({ways})")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Write to a staging folder first: errors happen before the first file is in place.
        # Not with `tempfile`, which fails if the working directory was deleted.
        staging = folder / f".sage-deploy-{token_hex(4)}"
        staging.mkdir()
        try:
            for name, text in files.items():
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                (staging / name).write_text(text, encoding="utf-8")
            for name in files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (staging / name).replace(folder / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise click.ClickException(f"{folder} cannot be written to: {error.strerror}") from error
