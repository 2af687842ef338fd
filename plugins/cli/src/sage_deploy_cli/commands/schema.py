"""`sage-deploy schema`: prints the JSON Schema of deployment files for editors."""

from __future__ import annotations

from pathlib import Path

import click

from sage_deploy_cli.output import complain, progress, write

__all__ = ["command"]


@click.command("schema")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write to FILE instead, completely or not at all.",
)
def command(output: Path | None) -> None:
    """
    Print the JSON Schema of deployment files, for editors.

    It includes the IDs and options of the installed plugins. Plugins that do not load are named on stderr.
    """
    from sage_deploy_cli.runs.whole_file import write_whole
    from sage_deploy_files.describing.schema.document import schema_text
    from sage_plugins.plugins.registry import Registry

    registry = Registry.discover()
    text = schema_text(registry)
    for failure in registry.failures:
        complain(f"the schema lacks what this offers: {failure}")
    if output is None:
        write(text)
        return
    try:
        write_whole(output, f"{text}\n")
    except OSError as error:
        raise click.FileError(str(output), error.strerror) from error
    progress(f"wrote {output}")
