"""`sage-deploy explain`: explains a key of deployment files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from sage_deploy_cli.output import heading, paragraph, printable, write, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_deploy_files.describing.field_docs import FieldDoc

__all__ = ["command"]


@click.command("explain")
@click.argument("field", default="")
@click.option("--json", "as_json", is_flag=True, help="Print the description as JSON.")
def command(field: str, *, as_json: bool) -> None:
    """
    Explain a FIELD of deployment files: its place, type, range, default and meaning.

    Examples of FIELD: timeout, performance.timeout, performance, methods.get.batch, init, class, options.pool (the
    options of a plugin). Without FIELD, list all keys of a deployment file.
    """
    import attrs

    from sage_deploy_files.describing.field_docs import explain

    if re.fullmatch(r"[EW]\d{2,3}", field):
        raise click.UsageError(
            f"{field} is a rule, not a field: its cause and fix are in the documentation under 'Errors and warnings', "
            f"docs/errors.md#{field.lower()}"
        )
    found = explain(field)
    if as_json:
        write_json({"fields": [attrs.asdict(doc) for doc in found]})
    else:
        write("\n\n".join("\n".join(_lines(doc)) for doc in found))


def _lines(doc: FieldDoc) -> Iterator[str]:
    import yaml

    if doc.path:
        yield heading(doc.path)
        yield ""
    yield paragraph(doc.doc, "  ")
    yield ""
    facts = list(_facts(doc))
    yield from (f"  {name:<11} {printable(text)}" for name, text in facts)
    if facts:
        yield ""
    snippet = yaml.safe_dump(doc.snippet, sort_keys=False, allow_unicode=True)
    yield from (f"  {line}" for line in snippet.splitlines())
    if doc.path:
        yield from _keys(doc, list(doc.walk()))
        return
    for above in (doc, next(key for key in doc.keys if key.path == "services")):
        yield ""
        yield heading("Keys of the file" if above is doc else "Keys of a service, below services.<name>")
        yield from _keys(above, list(above.keys))


def _facts(doc: FieldDoc) -> Iterator[tuple[str, str]]:
    from sage_plugins.config.units import UNIT_WORDS

    if not doc.path:
        return
    yield "type", _type(doc)
    if doc.unit:
        yield "unit", f"{doc.unit}; a file may also have {UNIT_WORDS[doc.unit]}"
    if doc.required:
        yield "default", "none: it is required"
    elif doc.has_default:
        yield "default", _shown(doc.default)
    if doc.decided_by:
        yield "decided by", doc.decided_by


def _keys(above: FieldDoc, keys: list[FieldDoc]) -> Iterator[str]:
    """Yield keys with their meanings. For sections of the file and of a service, also the names of the keys in them."""
    for key in keys:
        yield ""
        name = key.path.removeprefix(f"{above.path}.")
        default = " (required)" if key.required else f" = {_shown(key.default)}" if key.has_default else ""
        yield printable(f"  {name}: {_type(key)}{default}")
        if key.doc:
            yield paragraph(key.doc, "      ")
        if key.keys and above.path in {"", "services"} and key.path != "services":
            yield paragraph(", ".join(below.path.rpartition(".")[2] for below in key.keys), "      ")


def _type(doc: FieldDoc) -> str:
    return f"{doc.type}, {doc.range}" if doc.range else doc.type


def _shown(value: object) -> str:
    """Return a value in a spelling that is valid YAML and JSON."""
    import json

    return json.dumps(value, ensure_ascii=False)
