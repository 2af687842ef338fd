"""The texts to search: what the modules of the standard library say about themselves."""

from __future__ import annotations

import ast
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class ModuleDocs:
    """Reads the docstrings of modules from their sources. Nothing is imported, so nothing is executed."""

    def read(self) -> list[tuple[str, str]]:
        """The name of each public module that has a docstring, with its first paragraph; in alphabetical order."""
        folder = Path(sysconfig.get_path("stdlib"))
        return sorted((name, text) for name, path in _sources(folder) if (text := _paragraph(path)))


def _sources(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each public module of the standard library that is written in Python, with its file; no parts of packages."""
    for name in sys.stdlib_module_names:
        for path in (folder / f"{name}.py", folder / name / "__init__.py"):
            if path.is_file() and not name.startswith("_"):
                yield name, path


def _paragraph(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_bytes(), path.name)) or ""
    return " ".join(text.partition("\n\n")[0].split())
