"""
Sends the caller's own modules as source text, and imports them from it where they are missing.

A class from a module that both sides can import pickles by its name. So it is the same class on both sides, and the
module's locks, caches and other globals, which could not be pickled, exist there too.
"""

from __future__ import annotations

import os
import pickle
import sys
import sysconfig
import zlib
from contextlib import suppress
from functools import lru_cache
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple

from sage_plugins.plugins.discovery import installed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import ModuleType

__all__ = ["gather", "install"]

#: Folders of installed packages, in any environment.
_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class _Source(NamedTuple):
    """A module of the caller. Without text, it is a namespace package."""

    path: str
    text: bytes | None
    folders: tuple[str, ...] | None
    """The folders of a package's modules; None for other modules."""


class _Found(NamedTuple):
    """As `_Source`, before its text is read."""

    path: str
    folders: tuple[str, ...] | None
    stamp: tuple[int, int] | None = None
    """The file's modification time and size; None if it is no file."""


# -- in the caller's process -------------------------------------------------------------------------------------------


class _Gathered(NamedTuple):
    """The last result of `gather`, with the files and received modules that it was made from."""

    found: Mapping[str, _Found]
    came: Mapping[str, _Source]
    data: bytes


_lock = Lock()
_last = _Gathered({}, {}, b"")


def gather() -> bytes:
    """
    Return the modules that this process has imported and that were not installed, packed.

    Of a package, all modules are included. Left out are the interpreter's modules, the plugins of this deployment, and
    packages with C extension modules, which must be installed where they run. Changed files are read again.
    """
    global _last  # noqa: PLW0603 - a cache of one
    found = dict(_found())
    came = _FINDER.sources
    with _lock:
        if found != _last.found or came is not _last.came:
            sources = dict(came)  # modules that came here travel on
            for name, each in found.items():
                with suppress(OSError):  # the file was deleted after the import
                    sources[name] = _Source(each.path, _read(name, each), each.folders)
            _last = _Gathered(found, came, zlib.compress(pickle.dumps(sources, 5), 1))
        return _last.data


def _found() -> Iterator[tuple[str, _Found]]:
    loaded = dict(sys.modules)
    own = {name: spec for name, module in loaded.items() if (spec := _own_spec(name, module)) is not None}
    in_c = set()
    for name, spec in own.items():
        if "." not in name:
            modules = dict(_package(name, _folders(spec) or ()))
            if any(found.path.endswith(tuple(EXTENSION_SUFFIXES)) for found in modules.values()):
                in_c.add(name)
            else:
                yield from modules.items()
    for name, spec in own.items():
        if _top(name) not in in_c:
            yield name, _of_file(str(spec.origin), _folders(spec))
            for parent in _bare_parents(name, loaded):
                yield parent, _Found("", tuple(getattr(loaded[parent], "__path__", ())))


def _own_spec(name: str, module: ModuleType) -> ModuleSpec | None:
    """Return the spec of a module that the caller brought and whose source is available; None for any other module."""
    try:
        spec = object.__getattribute__(module, "__dict__").get("__spec__")  # getattr would load a lazy module
    except AttributeError:  # sys.modules may contain any object
        return None
    if not isinstance(spec, ModuleSpec) or spec.name != name or not str(spec.origin).endswith(".py"):
        return None  # made by hand, under another name, in C, or a namespace package
    origin = str(spec.origin)
    if _top(name) in sys.stdlib_module_names or _top(name) in _of_plugins() or isinstance(spec.loader, _Loader):
        return None
    if origin.startswith(_interpreter()) or any(folder in origin for folder in _INSTALLED):
        return None
    return spec


def _bare_parents(name: str, loaded: Mapping[str, ModuleType]) -> Iterator[str]:
    """Yield the packages above a module that have no source."""
    while name := name.rpartition(".")[0]:
        if name in loaded and getattr(loaded[name], "__file__", None) is None:
            yield name


def _package(name: str, folders: Iterable[str]) -> Iterator[tuple[str, _Found]]:
    """
    Yield the modules of a package and its subpackages, including C extension modules.

    Folders that this user may not read have no modules, such as those of a database.
    """
    for entry in chain.from_iterable(map(_entries, folders)):
        stem, _, _ = entry.name.partition(".")
        if not stem.isidentifier():
            continue
        if entry.name.endswith((".py", *EXTENSION_SUFFIXES)) and stem != "__init__":
            yield f"{name}.{stem}", _of_file(entry.path)
        elif (
            entry.is_dir(follow_symlinks=False) and os.path.isfile(Path(entry.path, "__init__.py"))  # noqa: PTH113 - False if it may not look
        ):  # not a link, which may lead back to a parent
            yield f"{name}.{stem}", _of_file(str(Path(entry.path, "__init__.py")), (entry.path,))
            yield from _package(f"{name}.{stem}", (entry.path,))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:  # there is none, or this user may not read it
        return []


def _of_file(path: str, folders: tuple[str, ...] | None = None) -> _Found:
    try:
        status = os.stat(path)  # noqa: PTH116 - hundreds of files
    except OSError:  # inside an archive
        return _Found(path, folders)
    return _Found(path, folders, (status.st_mtime_ns, status.st_size))


def _read(name: str, found: _Found) -> bytes | None:
    if not found.path:
        return None
    if found.stamp is not None:
        return Path(found.path).read_bytes()
    read: Callable[[str], bytes] | None = getattr(sys.modules[name].__spec__.loader, "get_data", None)  # type: ignore[union-attr] # _own_spec
    if read is None:
        raise FileNotFoundError(found.path)
    return read(found.path)


def _folders(spec: ModuleSpec) -> tuple[str, ...] | None:
    return None if spec.submodule_search_locations is None else tuple(spec.submodule_search_locations)


def _top(name: str) -> str:
    return name.partition(".")[0]


@lru_cache(1)
def _interpreter() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(paths[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))


@lru_cache(1)
def _of_plugins() -> frozenset[str]:
    """Top-level modules of the core and the plugins, which are installed wherever replicas run, even if editable."""
    return frozenset({"sage_plugins", *(_top(plugin.module) for plugin in installed())})


# -- in the replica's process ------------------------------------------------------------------------------------------


def install(sources: bytes) -> None:
    """
    Make modules importable that `gather` packed elsewhere. Modules that are already imported stay unchanged.

    A package or module that exists here with the same text is imported from here, because it may have data files.
    """
    _FINDER.add(pickle.loads(zlib.decompress(sources)))  # noqa: S301 - from a process of this deployment
    if _FINDER not in sys.meta_path:
        # Before the path's finder, because the path may have another module of that name.
        sys.meta_path.insert(0, _FINDER)


class _Finder(MetaPathFinder):
    """Finds the modules that came as source text."""

    def __init__(self) -> None:
        self.sources: Mapping[str, _Source] = {}  # replaced, never changed in place
        self._here: dict[str, bool] = {}

    def add(self, sources: Mapping[str, _Source]) -> None:
        self.sources = {**self.sources, **sources}
        self._here = {}

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of *name*; None if it did not come, or if this process has the same files."""
        source = self.sources.get(name)
        if source is None or self._is_here(_top(name)):
            return None
        if source.text is None:
            # Others may have installed modules in the same namespace.
            other = PathFinder.find_spec(name, path, target)
            if other is not None:
                return other
        loader = None if source.text is None else _Loader(source.path, source.text)
        spec = ModuleSpec(name, loader, origin=source.path or None, is_package=source.folders is not None)
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.extend(source.folders or ())
        spec.has_location = loader is not None
        return spec

    def _is_here(self, top: str) -> bool:
        known = self._here.get(top)
        if known is None:
            known = self._here[top] = self._compare(top)
        return known

    def _compare(self, top: str) -> bool:
        """Whether a top-level package or module can be imported from the path and has the same text there."""
        spec = PathFinder.find_spec(top)
        there = self.sources.get(top)
        if spec is None or there is None:
            return False
        folder_here = _root(spec.origin, spec.submodule_search_locations)
        folder_there = _root(there.path, there.folders)
        for name, source in self.sources.items():
            if _top(name) == top and source.text is not None:
                try:
                    here = Path(folder_here, Path(source.path).relative_to(folder_there))
                    if here.read_bytes() != source.text:
                        return False
                except (OSError, ValueError):  # missing, or outside the folder
                    return False
        return True


def _root(path: str | None, folders: Sequence[str] | None) -> Path:
    return Path(next(iter(folders or ()), path or "")).parent


class _Loader(SourceLoader):
    """Imports a module from its text. `__file__` is the caller's path, because people read tracebacks there."""

    def __init__(self, path: str, text: bytes) -> None:
        self._path = path
        self._text = text

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002 - a SourceLoader has one module
        return self._path

    def get_data(self, path: str | bytes) -> bytes:
        """Return the source; or the content of another file, if the caller's folders exist here too."""
        return self._text if path == self._path else Path(os.fsdecode(path)).read_bytes()


_FINDER: Final = _Finder()
