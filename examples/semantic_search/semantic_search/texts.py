"""Reads the texts to search: the docstrings of the standard library's modules."""

from __future__ import annotations

import ast
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class ModuleDocs:
    """Reads module docstrings from source files. It imports nothing, so no module runs."""

    def read(self) -> list[tuple[str, str]]:
        """Return the name and the docstring's first paragraph of each documented public module, sorted by name."""
        folder = Path(sysconfig.get_path("stdlib"))
        return sorted((name, text) for name, path in _sources(folder) if (text := _paragraph(path)))


def _sources(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and the file of each public standard library module written in Python, without submodules."""
    for name in sys.stdlib_module_names:
        for path in (folder / f"{name}.py", folder / name / "__init__.py"):
            if path.is_file() and not name.startswith("_"):
                yield name, path


def _paragraph(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_bytes(), path.name)) or ""
    return " ".join(text.partition("\n\n")[0].split())
