"""Reads docstrings from source files. It imports nothing, so no module runs."""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from .documents import Document

if TYPE_CHECKING:
    from collections.abc import Iterator

#: In the standard library, but not an API: demos, games, installers, and modules that Python will remove.
_SKIPPED = frozenset({"antigravity", "distutils", "ensurepip", "idlelib", "lib2to3", "this", "turtledemo"})
_TESTS = frozenset({"test", "tests"})

#: Some versions of Python, such as 3.11.7, raise SystemError if two threads parse at once.
_parsing = threading.Lock()

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class DocReader:
    """
    Lists the public modules of the standard library and reads their documentation, one module per call.

    It keeps no state between calls, so any number of threads and replicas can share the work.
    """

    def __init__(self, root: str | None = None) -> None:
        """
        Find the source files.

        Args:
            root: The folder of the standard library; default: that of the running Python.

        Raises:
            FileNotFoundError: *root* has no source file of the standard library.
        """
        folder = Path(root or sysconfig.get_path("stdlib"))
        self._sources = dict(_sources(folder))
        if not self._sources:
            msg = f"no source of the standard library in {folder}: give the folder that has argparse.py as root="
            raise FileNotFoundError(msg)

    def modules(self) -> list[str]:
        """Return the dotted names of all modules that `read` accepts, in alphabetical order."""
        return sorted(self._sources)

    def read(self, module: str) -> list[Document]:
        """
        Return the documentation of *module* and of its public classes, functions and methods, in the order of the file.

        Definitions without a docstring are left out. If a name is defined twice, its first docstring counts.

        Raises:
            LookupError: *module* is not in `modules()`.
        """
        if module not in self._sources:
            msg = f"no source for module {module!r}: it is no public module of the standard library, or written in C"
            raise LookupError(msg)
        found: dict[str, Document] = {}
        for path in self._sources[module]:
            source = path.read_bytes()
            with _parsing:
                tree = ast.parse(source, path.name)
            for document in _documents(module, tree):
                found.setdefault(document.name, document)
        return list(found.values())


def _sources(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """Yield each public module in *folder* with its source files."""
    for name in sys.stdlib_module_names - _SKIPPED - _TESTS:
        if name.startswith("_"):
            continue
        if (folder / f"{name}.py").is_file():
            # decimal.py only re-exports a C module; _pydecimal.py is the same module in Python, with docstrings.
            twins = (folder / f"{name}.py", folder / f"_py{name}.py")
            yield name, [path for path in twins if path.is_file()]
        for path in (folder / name).rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            if not any(part.startswith("_") or part in _TESTS for part in parts):
                yield ".".join(parts), [path]


def _documents(module: str, tree: ast.Module) -> Iterator[Document]:
    """Yield the documents of one parsed file."""
    if text := ast.get_docstring(tree):
        yield _document(module, "module", "", text)
    yield from _members(module, tree, "function")


def _members(owner: str, body: ast.AST, function_kind: str) -> Iterator[Document]:
    """Yield the documents of the definitions inside *body*, also under `if` and `try`, but not inside functions."""
    for node in ast.iter_child_nodes(body):
        if isinstance(node, _Function | ast.ClassDef):
            if node.name.startswith("_"):
                continue
            name = f"{owner}.{node.name}"
            is_class = isinstance(node, ast.ClassDef)
            if text := ast.get_docstring(node):
                yield _document(name, "class" if is_class else function_kind, _signature(node), text)
            if is_class:
                yield from _members(name, node, "method")
        elif isinstance(node, ast.stmt | ast.ExceptHandler):
            yield from _members(owner, node, function_kind)


def _document(name: str, kind: str, signature: str, text: str) -> Document:
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    sentence = re.match(r".*?[.](?= |$)", paragraph)
    return Document(name, kind, signature, sentence[0] if sentence else paragraph, text)


def _signature(node: _Function | ast.ClassDef) -> str:
    """Return how a caller writes the call; for a class, with the arguments of its own `__init__`."""
    if isinstance(node, _Function):
        return f"{node.name}({ast.unparse(node.args)})"
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            arguments = re.sub(r"^self(, /)?(, )?", "", ast.unparse(member.args))
            return f"{node.name}({arguments})"
    return node.name
