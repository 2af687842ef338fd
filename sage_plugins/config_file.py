"""Reads `service_deployment.yaml`: which services there are, how each is deployed, and where in the file it says so."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import attrs

from sage_plugins import yaml_nodes
from sage_plugins.config import (
    GROUPS,
    ServiceDeploymentConfig,
    cross_problems,
    field_problems,
    fields,
    group_of,
)
from sage_plugins.errors import ConfigError
from sage_plugins.field_checks import shown, unknown_key
from sage_plugins.spelling import did_you_mean
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sage_plugins.yaml_nodes import Node

__all__ = ["DeploymentFile", "FileProblem", "Position", "ServiceEntry", "entry_config", "file_problem", "read"]

#: Problems beyond so many are counted, not listed: one mistake often has many.
_LISTED: Final = 20

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_TOP: Final = ("version", "services", "options", "defaults", "profiles")
_PROFILE: Final = ("defaults", "services")
_INIT: Final = ("args", "kwargs")
#: Problems that are about a key, not about its value.
_ABOUT_KEYS: Final = frozenset({"E101", "E104", "E107"})


@attrs.frozen
class Position:
    """A place in a file; lines and columns count from 1."""

    line: int
    column: int


@attrs.frozen
class FileProblem(Problem):
    """
    A problem with its place in a file.

    Attributes:
        path: The file, as it was named by the caller.
        line: Line, from 1.
        column: Column in characters, from 1.
        section: The part of the file in which `key` counts, such as `"services.kv"`; empty for the file itself.
    """

    path: str = ""
    line: int = 1
    column: int = 1
    section: str = ""

    @property
    def problem(self) -> Problem:
        """The problem without its place."""
        return Problem(self.id, self.key, self.message, self.fix)

    def __str__(self) -> str:
        """The problem as one line: `file:line:column: error E103: services.kv.replicas: message (fix)`."""
        key = ".".join(part for part in (self.section, self.key) if part)
        what = f"{_one_line(key)}: {self.message}" if key else self.message
        fix = f" ({self.fix})" if self.fix else ""
        return (
            f"{_one_line(self.path)}:{self.line}:{self.column}: {self.severity} {self.id}: {_one_line(what + fix, 500)}"
        )


@attrs.frozen
class ServiceEntry:
    """
    What a file says about one service, after its profile and its defaults.

    Attributes:
        name: Name of the service.
        values: The configuration fields that the file sets, by their flat names; the others have their defaults.
        class_path: The service's class as `"package.module:Class"`, or None.
        args: Positional arguments of the class's constructor.
        kwargs: Keyword arguments of the class's constructor.
        where: Place of each value by its path, such as `"thread_count"`, `"class"`, `"init.kwargs.backend"` or
            `"options.round_robin.weight"`; the path `""` is the service's name.
        where_keys: Place of each value's key, by the same paths.
    """

    name: str
    values: Mapping[str, Any]
    class_path: str | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    where: Mapping[str, Position]
    where_keys: Mapping[str, Position]

    @property
    def section(self) -> str:
        """The entry's own part of the file."""
        return f"services.{self.name}"


@attrs.frozen
class DeploymentFile:
    """
    A deployment file, read and checked as far as the core can.

    Attributes:
        path: The file, as it was named by the caller.
        services: The services by name, in the order of the file.
        options: The options of plugins for the whole environment, by plugin ID; the plugins check them.
        warnings: What is doubtful, but not wrong.
        where: Place of each value under `options` by its path, such as `"options.ray.address"`.
        where_keys: Place of each value's key, by the same paths.
    """

    path: str
    services: Mapping[str, ServiceEntry]
    options: Mapping[str, Mapping[str, Any]]
    warnings: tuple[FileProblem, ...]
    where: Mapping[str, Position]
    where_keys: Mapping[str, Position]

    @property
    def section(self) -> str:
        """The paths of `where` count from the top of the file."""
        return ""


def read(path: str | os.PathLike[str], *, profile: str | None = None) -> DeploymentFile:
    """
    The services of a deployment file, every value checked on its own and against the others of its service.

    Reading imports and runs nothing that the file names. Whether plugins, classes and nodes exist is not asked.

    Args:
        path: The file.
        profile: Name of a profile of the file, whose values stand in where a service's own entry has none; the file's
            `defaults` stand in for what is left. A field is taken as a whole, mappings such as `options` too.

    Raises:
        ConfigError: The file cannot be read or is not valid. `problems` has every `FileProblem`, errors first; the
            message has a line for each of the first 20.
    """
    return _Reader(os.fsdecode(path)).read(profile)


def entry_config(entry: ServiceEntry) -> ServiceDeploymentConfig:
    """The configuration that a file gives to one of its services."""
    return ServiceDeploymentConfig(**entry.values)


def file_problem(entry: ServiceEntry | DeploymentFile, problem: Problem, path: str) -> FileProblem:
    """
    Give a problem its place in the file: that of its key, or of the longest part of the key that the file has.

    Args:
        entry: Where the problem's key counts: a service's entry, or the file for its `options`.
        problem: A problem found by the core or by a plugin's check.
        path: The file.
    """
    known = entry.where_keys if problem.id in _ABOUT_KEYS else entry.where
    parts = problem.key.split(".")
    position = next(
        (known[prefix] for length in range(len(parts), 0, -1) if (prefix := ".".join(parts[:length])) in known),
        known.get("", Position(1, 1)),
    )
    return _placed(problem, path, position, entry.section)


def _placed(problem: Problem, path: str, position: Position, section: str) -> FileProblem:
    return FileProblem(
        problem.id, problem.key, problem.message, problem.fix, path, position.line, position.column, section
    )


def _one_line(text: str, most: int = 200) -> str:
    """Text from a file or a path as part of one line of a message: no line breaks, no control characters."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: most + 1])
    return text if len(text) <= most else f"{text[:most]}..."


@attrs.define
class _Layer:
    """What one mapping of the file says about a service: its own entry, a profile's, or defaults."""

    values: dict[str, Any] = attrs.Factory(dict)
    places: dict[str, tuple[Position, Position]] = attrs.Factory(dict)
    bad: set[str] = attrs.Factory(set)
    class_path: str | None = None
    init: dict[str, Any] | None = None

    def over(self, below: _Layer) -> _Layer:
        """This layer, with *below* where it says nothing."""
        mine = {*self.values, *self.bad}
        taken = {name for name in (*below.values, *below.bad) if name not in mine}
        if self.class_path is None:
            taken.add("class")
        if self.init is None:
            taken.add("init")
        places = {path: place for path, place in below.places.items() if path.partition(".")[0] in taken}
        return _Layer(
            values={name: value for name, value in below.values.items() if name in taken} | self.values,
            places=places | self.places,
            bad=self.bad | (below.bad & taken),
            class_path=self.class_path or below.class_path,
            init=below.init if self.init is None else self.init,
        )


def _position(node: Node) -> Position:
    return Position(node.line, node.column)


class _Reader:
    """Reads one file once; problems are collected, and end the reading only where there is nothing left to read."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._problems: list[FileProblem] = []

    def read(self, profile: str | None) -> DeploymentFile:
        root, flaws = yaml_nodes.read_nodes(self._bytes(), os.environ)
        for flaw in flaws:
            problem = Problem(flaw.id, "", flaw.message, flaw.fix)
            self._problems.append(_placed(problem, self._path, Position(flaw.line, flaw.column), ""))
        if root is None:
            self._refuse()
        file = self._file(root, profile)
        if any(problem.severity == "error" for problem in self._problems):
            self._refuse()
        return attrs.evolve(file, warnings=tuple(sorted(self._problems, key=_order)))

    # Reporting.

    def _add(  # noqa: PLR0913, PLR0917 - a problem and its place, in the order of printing
        self,
        id: str,
        at: Position,
        section: str,
        key: str,
        message: str,
        fix: str = "",
    ) -> None:
        self._problems.append(_placed(Problem(id, key, message, fix), self._path, at, section))

    def _unknown(self, at: Position, section: str, name: str, candidates: Iterable[str]) -> None:
        problem = unknown_key(name, name, candidates, suggest=self._suggest())
        self._problems.append(_placed(problem, self._path, at, section))

    def _suggest(self) -> bool:
        # Nobody sees more, and a file may have thousands of unknown keys.
        return len(self._problems) < _LISTED

    def _refuse(self) -> NoReturn:
        problems = sorted(self._problems, key=_order)
        lines = [f"\n  {problem}" for problem in problems[:_LISTED]]
        if len(problems) > _LISTED:
            lines.append(f"\n  and {len(problems) - _LISTED} more")
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"{_one_line(self._path)} has {count}:{''.join(lines)}", problems=problems)

    # The file as bytes.

    def _bytes(self) -> bytes:
        data: bytes | None = None
        what = "is not a regular file"
        try:
            # Opening a FIFO must not wait for a writer.
            descriptor = os.open(self._path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
            try:
                mode = os.fstat(descriptor).st_mode
                if stat.S_ISDIR(mode):
                    what = "is a directory"
                elif stat.S_ISREG(mode):
                    with open(descriptor, "rb", closefd=False) as file:
                        data = file.read(yaml_nodes.MAX_BYTES + 1)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            what = "there is no such file"
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
        except ValueError:
            # A name with a NUL character.
            what = "is not the name of a file"
        if data is None:
            self._add("E109", Position(1, 1), "", "", what)
            self._refuse()
        return data

    # The file's parts.

    def _file(self, root: Node, profile: str | None) -> DeploymentFile:
        services: dict[str, ServiceEntry] = {}
        options: Mapping[str, Mapping[str, Any]] = {}
        places: dict[str, tuple[Position, Position]] = {}
        if root.kind != "mapping":
            found = "nothing but null" if root.value is None else shown(root.value)
            self._add(
                "E102", _position(root), "", "", f"the file must be a mapping, got {found}", "start with services:"
            )
        else:
            self._known_keys(root, "", _TOP)
            self._version(root)
            options = self._options(root, places)
            base = self._defaults(root, "")
            chosen = self._profiles(root, profile)
            services = self._services(root, base, chosen)
        return DeploymentFile(
            path=self._path,
            services=MappingProxyType(services),
            options=MappingProxyType(dict(options)),
            warnings=(),
            where=MappingProxyType({path: value for path, (_, value) in places.items()}),
            where_keys=MappingProxyType({path: key for path, (key, _) in places.items()}),
        )

    def _known_keys(self, node: Node, section: str, known: Sequence[str]) -> None:
        for name in node.entries:
            if name not in known:
                self._unknown(Position(*node.keys[name]), section, name, known)

    def _mapping(self, node: Node, section: str, key: str) -> bool:
        if node.kind == "mapping":
            return True
        fix = "remove the key if there is nothing to say" if node.value is None else ""
        self._add("E102", _position(node), section, key, f"must be a mapping, got {shown(node.value)}", fix)
        return False

    def _version(self, root: Node) -> None:
        node = root.entries.get("version")
        if node is None:
            return
        if isinstance(node.value, bool) or not isinstance(node.value, int):
            self._add("E102", _position(node), "", "version", f"must be 1, got {shown(node.value)}", "write version: 1")
        elif node.value != 1:
            message = f"must be 1, got {shown(node.value)}"
            self._add("E103", _position(node), "", "version", message, "a newer sage-deploy may read this file")

    def _options(self, root: Node, places: dict[str, tuple[Position, Position]]) -> Mapping[str, Mapping[str, Any]]:
        node = root.entries.get("options")
        if node is None:
            return {}
        _walk(node, "options", Position(*root.keys["options"]), places)
        return node.value if self._check("options", node, "", places) else {}

    def _defaults(self, parent: Node, section: str) -> _Layer:
        node = parent.entries.get("defaults")
        path = f"{section}.defaults" if section else "defaults"
        if node is None or not self._mapping(node, "", path):
            return _Layer()
        return self._layer(node, path, is_service=False)

    def _profiles(self, root: Node, wanted: str | None) -> tuple[_Layer, dict[str, _Layer]]:
        """The wanted profile's defaults and services; the others are checked all the same."""
        node = root.entries.get("profiles")
        found: dict[str, tuple[_Layer, dict[str, _Layer]]] = {}
        if node is not None and self._mapping(node, "", "profiles"):
            services = root.entries.get("services")
            known = services.keys if services is not None else {}
            for name, child in node.entries.items():
                section = f"profiles.{name}"
                if self._name("profile", name, Position(*node.keys[name]), section) and self._mapping(
                    child, "", section
                ):
                    found[name] = self._profile(child, section, known)
        if wanted is None or (node is not None and wanted in node.keys):
            return found.get(wanted or "", (_Layer(), {}))
        names = list(node.keys) if node is not None else []
        near = did_you_mean(wanted, names)
        at = _position(node) if node is not None else Position(1, 1)
        fix = f"did you mean {near!r}?" if near else f"profiles of the file: {', '.join(names) or 'none'}"
        self._add("E101", at, "", "profiles", f"there is no profile {shown(wanted)}", fix)
        return _Layer(), {}

    def _profile(self, node: Node, section: str, known: Iterable[str]) -> tuple[_Layer, dict[str, _Layer]]:
        self._known_keys(node, section, _PROFILE)
        layers: dict[str, _Layer] = {}
        services = node.entries.get("services")
        if services is not None and self._mapping(services, section, "services"):
            for name, child in services.entries.items():
                at = Position(*services.keys[name])
                if name not in known:
                    near = did_you_mean(name, known) if self._suggest() else None
                    fix = f"did you mean {near!r}?" if near else "a profile changes services, it does not add any"
                    self._add("E101", at, f"{section}.services", name, f"there is no service {shown(name)}", fix)
                elif self._mapping(child, f"{section}.services", name):
                    layers[name] = self._layer(child, f"{section}.services.{name}", is_service=True)
        return self._defaults(node, section), layers

    def _services(self, root: Node, base: _Layer, chosen: tuple[_Layer, dict[str, _Layer]]) -> dict[str, ServiceEntry]:
        node = root.entries.get("services")
        if node is None:
            if "services" not in root.keys:
                self._add("E107", _position(root), "", "services", "is required, but missing", "add services:")
            return {}
        if not self._mapping(node, "", "services"):
            return {}
        entries: dict[str, ServiceEntry] = {}
        for name, child in node.entries.items():
            section, at = f"services.{name}", Position(*node.keys[name])
            if not self._name("service", name, at, section):
                continue
            layer = _Layer()
            # An entry without contents is a service with all its defaults.
            if child.value is not None:
                if not self._mapping(child, "", section):
                    continue
                layer = self._layer(child, section, is_service=True)
            profile_defaults, profile_services = chosen
            layer = layer.over(profile_services.get(name, _Layer())).over(profile_defaults).over(base)
            entries[name] = self._entry(name, at, layer)
        return entries

    def _entry(self, name: str, at: Position, layer: _Layer) -> ServiceEntry:
        init = layer.init or {}
        entry = ServiceEntry(
            name=name,
            values=MappingProxyType(layer.values),
            class_path=layer.class_path,
            args=tuple(init.get("args", ())),
            kwargs=MappingProxyType(dict(init.get("kwargs", {}))),
            where=MappingProxyType({"": at} | {path: value for path, (_, value) in layer.places.items()}),
            where_keys=MappingProxyType({"": at} | {path: key for path, (key, _) in layer.places.items()}),
        )
        whole = {field: info.default for field, info in fields().items()} | layer.values
        good = {field: value for field, value in whole.items() if field not in layer.bad}
        self._problems += [file_problem(entry, problem, self._path) for problem in cross_problems(good)]
        return entry

    def _name(self, kind: str, name: str, at: Position, section: str) -> bool:
        if _NAME.fullmatch(name):
            return True
        fix = "use a letter, then at most 62 letters, digits, '_' and '-'"
        self._add("E103", at, section.partition(".")[0], "", f"{shown(name)} is not the name of a {kind}", fix)
        return False

    # One mapping with a service's configuration.

    def _layer(self, node: Node, section: str, *, is_service: bool) -> _Layer:
        layer = _Layer()
        own = ("class", "init") if is_service else ()
        for name, child in node.entries.items():
            key_at = Position(*node.keys[name])
            if name in fields():
                self._take(layer, section, name, key_at, child)
            elif name in GROUPS:
                if self._mapping(child, section, name):
                    self._group(layer, section, name, child)
            elif name in own:
                _walk(child, name, key_at, layer.places)
                if name == "class":
                    layer.class_path = self._class(child, section)
                else:
                    layer.init = self._init(child, section)
            else:
                self._unknown(key_at, section, name, [*own, *GROUPS, *fields()])
        return layer

    def _group(self, layer: _Layer, section: str, group: str, node: Node) -> None:
        for name, child in node.entries.items():
            key_at = Position(*node.keys[name])
            if name not in fields():
                self._unknown_in_group(key_at, section, group, name)
            elif (home := group_of(name)) != group:
                message = f"belongs {_home_words(home)}, not to {group}"
                self._add("E101", key_at, section, f"{group}.{name}", message, f"move it {_home_words(home)}")
            else:
                self._take(layer, section, name, key_at, child)

    def _unknown_in_group(self, at: Position, section: str, group: str, name: str) -> None:
        inside = [field for field, info in fields().items() if info.group == group]
        key = f"{group}.{name}"
        near = did_you_mean(name, inside) if self._suggest() else None
        fix = f"did you mean {near!r}?" if near else ""
        if not near and self._suggest() and (near := did_you_mean(name, fields())):
            fix = f"did you mean {near!r}, which belongs {_home_words(group_of(near))}?"
        self._add("E101", at, section, key, f"unknown key {shown(name)}", fix)

    def _take(self, layer: _Layer, section: str, name: str, key_at: Position, node: Node) -> None:
        if name in layer.places:
            first = layer.places[name][0].line
            self._add(
                "E104", key_at, section, name, f"is set a second time, first on line {first}", "remove one of them"
            )
            return
        _walk(node, name, key_at, layer.places)
        if self._check(name, node, section, layer.places):
            layer.values[name] = node.value
        else:
            layer.bad.add(name)

    def _check(self, name: str, node: Node, section: str, places: Mapping[str, tuple[Position, Position]]) -> bool:
        """Report what is wrong with one field's value, each problem at its place."""
        found = field_problems(name, node.value)
        for problem in found:
            key, value = places.get(problem.key, (_position(node), _position(node)))
            at = key if problem.id in _ABOUT_KEYS else value
            self._problems.append(_placed(problem, self._path, at, section))
        return not found

    def _class(self, node: Node, section: str) -> str | None:
        text = node.value
        fix = "write package.module:Class"
        if not isinstance(text, str):
            self._add("E102", _position(node), section, "class", f"must be a string, got {shown(text)}", fix)
            return None
        module, colon, name = text.partition(":")
        if colon and all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
            return text
        self._add("E103", _position(node), section, "class", f"{shown(text)} is not the path of a class", fix)
        return None

    def _init(self, node: Node, section: str) -> dict[str, Any] | None:
        if not self._mapping(node, section, "init"):
            return None
        good: dict[str, Any] = {}
        for name, child in node.entries.items():
            if name not in _INIT:
                problem = unknown_key(f"init.{name}", name, _INIT, suggest=self._suggest())
                self._problems.append(_placed(problem, self._path, Position(*node.keys[name]), section))
            elif name == "kwargs":
                if self._mapping(child, section, "init.kwargs"):
                    good[name] = child.value
            elif child.kind == "list":
                good[name] = child.value
            else:
                message = f"must be a list, got {shown(child.value)}"
                self._add("E102", _position(child), section, "init.args", message)
        return good


def _home_words(group: str | None) -> str:
    return "to the service's own level" if group is None else f"to {group}"


def _walk(node: Node, path: str, key: Position, places: dict[str, tuple[Position, Position]]) -> None:
    """Note the place of a value and of everything in it; a list's items are their own keys."""
    pending = [(path, key, node)]
    while pending:
        at, key, child = pending.pop()
        places[at] = (key, _position(child))
        pending += [(f"{at}.{name}", Position(*child.keys[name]), entry) for name, entry in child.entries.items()]
        pending += [(f"{at}.{index}", _position(item), item) for index, item in enumerate(child.items)]


def _order(problem: FileProblem) -> tuple[bool, int, int]:
    return problem.severity == "warning", problem.line, problem.column
