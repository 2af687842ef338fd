"""
Finds the entry points of a group, usually without importing `importlib.metadata`.

Importing `importlib.metadata` takes as long as importing the core, because it imports Python's mail and zip packages.
So this module reads the folders of `sys.path` itself. It uses `importlib.metadata` only if distributions may be
somewhere else, such as in a zip file.
"""
# ruff: noqa: PTH113, PTH118, PTH123, PTH208 - importing pathlib takes longer than reading the folders

from __future__ import annotations

import os
import re
import sys
from functools import partial
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from importlib.metadata import Distribution

__all__ = ["entry_points"]


def entry_points(group: str) -> Iterator[tuple[str, str, Callable[[], Distribution]]]:
    """
    Yield all entry points of a group. If two distributions have the same name, only the first on `sys.path` counts.

    Yields:
        Name, value (`module` or `module:object`), and a function that returns the distribution.
    """
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_distributions")]
    if finders == [PathFinder] and not any(_is_archive(os.fsdecode(entry)) for entry in sys.path):
        for info in _infos():
            for name, value in _parsed(_text(info), group):
                yield name, value, partial(_distribution, info)
    else:
        from importlib import metadata

        for point in metadata.entry_points(group=group):
            yield point.name, point.value, partial(getattr, point, "dist")


def _is_archive(entry: str) -> bool:
    """Whether *entry* of `sys.path` is an egg or a file, so that its distributions are not in a plain folder."""
    return entry.endswith(".egg") or os.path.isfile(entry)


def _infos() -> Iterator[str]:
    """Yield the metadata folder of each distribution."""
    known: set[str] = set()
    for folder in map(os.fsdecode, sys.path):
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            stem, _, kind = name.lower().rpartition(".")
            if stem and kind in {"dist-info", "egg-info"}:
                project = re.sub(r"[-_.]+", "_", stem.partition("-")[0])
                if project not in known:
                    known.add(project)
                    yield os.path.join(folder, name)


def _text(info: str) -> str:
    try:
        with open(os.path.join(info, "entry_points.txt"), encoding="utf-8") as file:
            return file.read()
    except OSError:  # most distributions have no such file
        return ""


def _parsed(text: str, group: str) -> Iterator[tuple[str, str]]:
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line.strip("[]")
        elif section == group and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()


def _distribution(info: str) -> Any:
    from importlib.metadata import Distribution

    return Distribution.at(info)
