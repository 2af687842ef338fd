"""Reads `service_deployment.yaml`: the services, the settings of each, and the place of every value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_deploy_files.bounded_file import UnreadableError, read_bounded
from sage_deploy_files.reading.layers import Budget, Layer, TooMuchError, merged, walk
from sage_deploy_files.reading.mistakes import without_wrong_parts, wrong_fields
from sage_deploy_files.reading.nodes import MAX_BYTES, read_nodes
from sage_deploy_files.reading.problems import (
    LISTED,
    FileProblem,
    Position,
    as_written,
    in_order,
    placed,
    refuse,
    shown_from,
)
from sage_plugins.config.cross_rules import cross_problems
from sage_plugins.config.entries import misplaced_key, name_problem
from sage_plugins.config.field_checks import shown, unknown_key
from sage_plugins.config.service_config import GROUPS, completed, field_problems, fields, plain, read_value
from sage_plugins.texts import did_you_mean
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sage_deploy_files.reading.layers import Place
    from sage_deploy_files.reading.nodes import Node

from sage_deploy_files.reading.entries import ABOUT_KEYS, DeploymentFile, ServiceEntry, file_problem

__all__ = ["FileProblem", "Position", "YamlReader", "examine", "read"]

_TOP: Final = ("version", "services", "options", "defaults", "profiles")
_PROFILE: Final = ("defaults", "services")
_INIT: Final = ("args", "kwargs")
#: Keys that only the entry of a service may have.
_OWN: Final = ("class", "init")
#: After so many errors, no further services are checked: each error in defaults repeats in every service.
MOST_ERRORS: Final = 10_000


def read(path: str | os.PathLike[str], *, profile: str | None = None) -> DeploymentFile:
    """
    Read a deployment file. Check each value on its own and against the others of its service.

    Reading imports and runs nothing that the file names. It does not check whether plugins, classes and nodes exist.
    Environment variables are filled in where the file names them.

    Args:
        path: The file.
        profile: Name of a profile of the file. Values are taken, in this order, from the profile's services, the
            services' own entries, the profile's `defaults`, and the file's `defaults`. Mappings are merged key by key.

    Raises:
        ConfigError: The file cannot be read or is not valid. Its `problems` has every `FileProblem`, errors first. Its
            message has a line for each of the first 20.
    """
    file = examine(path, profile=profile)
    if any(problem.severity == "error" for problem in file.problems):
        refuse(file.path, file.problems)
    return file


def examine(path: str | os.PathLike[str], *, profile: str | None = None) -> DeploymentFile:
    """As `read`, but return errors in the file's `problems`. Wrong values are left out of the result."""
    reader = _Reader(os.fsdecode(path), profile)
    file = reader.read()
    return attrs.evolve(file, problems=tuple(in_order(reader.problems)))


class YamlReader:
    """The `interfaces.ConfigReader` for YAML files."""

    def read(self, path: str | os.PathLike[str], *, profile: str | None = None) -> DeploymentFile:
        """As `read`."""
        return read(path, profile=profile)

    def examine(self, path: str | os.PathLike[str], *, profile: str | None = None) -> DeploymentFile:
        """As `examine`."""
        return examine(path, profile=profile)


class _Reader:
    """Reads one file once. It collects problems, and stops only if nothing is left to read."""

    def __init__(self, path: str, profile: str | None) -> None:
        self._path = path
        self._wanted = profile
        self.problems: list[FileProblem] = []
        self._budget = Budget()

    def read(self) -> DeploymentFile:
        try:
            data = read_bounded(self._path, MAX_BYTES)
        except UnreadableError as error:
            self._add("E109", Position(1, 1), "", "", str(error), "check the path, and that the file may be read")
            return self._file(None)
        root, flaws = read_nodes(data, os.environ)
        for flaw in flaws:
            problem = Problem(flaw.id, "", flaw.message, flaw.fix)
            self.problems.append(placed(problem, self._path, Position(flaw.line, flaw.column)))
        return self._file(root)

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
        self.problems.append(placed(Problem(id, key, message, fix), self._path, at, section))

    def _unknown(self, at: Position, section: str, name: str, candidates: Iterable[str]) -> None:
        problem = unknown_key(name, name, candidates, suggest=self._suggest())
        self.problems.append(placed(problem, self._path, at, section))

    def _suggest(self) -> bool:
        # Only the first problems are shown, and a file may have thousands of unknown keys.
        return len(self.problems) < LISTED

    # The file's parts.

    def _file(self, root: Node | None) -> DeploymentFile:
        services: dict[str, ServiceEntry] = {}
        options: Mapping[str, Mapping[str, Any]] = {}
        layer = Layer()
        if root is None:
            pass  # the error is already reported
        elif root.kind != "mapping":
            found = "nothing but null" if root.value is None else _shown(root)
            self._add(
                "E102", _position(root), "", "", f"the file must be a mapping, got {found}", "start with services:"
            )
        else:
            self._known_keys(root, "", _TOP)
            self._version(root)
            options = self._options(root, layer)
            base = self._defaults(root, "", Layer("defaults"))
            services = self._services(root, base, *self._profiles(root))
        return DeploymentFile(
            path=self._path,
            services=MappingProxyType(services),
            options=MappingProxyType(dict(options)),
            problems=(),
            profile=self._wanted,
            layer=layer,
        )

    def _known_keys(self, node: Node, section: str, known: Sequence[str]) -> None:
        for name in node.entries:
            if name not in known:
                self._unknown(Position(*node.keys[name]), section, name, known)

    def _mapping(self, node: Node, section: str, key: str) -> bool:
        if node.kind == "mapping":
            return True
        fix = "remove the key if there is nothing to say" if node.value is None else ""
        if key == "services":
            fix = "write the name of each service as a key, and its settings below it"
        self._add("E102", _position(node), section, key, f"must be a mapping, got {_shown(node)}", fix)
        return False

    def _version(self, root: Node) -> None:
        node = root.entries.get("version")
        if node is None:
            return
        if isinstance(node.value, bool) or not isinstance(node.value, int):
            self._add("E102", _position(node), "", "version", f"must be 1, got {_shown(node)}", "write version: 1")
        elif node.value != 1:
            message = f"must be 1, got {_shown(node)}"
            self._add("E103", _position(node), "", "version", message, "a newer sage-deploy may read this file")

    def _options(self, root: Node, layer: Layer) -> Mapping[str, Mapping[str, Any]]:
        node = root.entries.get("options")
        if node is None:
            return {}
        walk(node, "options", Position(*root.keys["options"]), layer.places)
        found = self._check("options", node.value, field_problems("options", node.value), node, "", layer.places)
        return {} if found else node.value

    def _defaults(self, parent: Node, section: str, layer: Layer) -> Layer:
        node = parent.entries.get("defaults")
        path = f"{section}.defaults" if section else "defaults"
        if node is not None and self._mapping(node, "", path):
            self._fill(layer, node, path)
        elif path.rpartition(".")[2] in parent.keys:
            layer.bad.update(fields())
        return layer

    def _profiles(self, root: Node) -> tuple[Layer, dict[str, Layer]]:
        """Return the layers of the chosen profile: its defaults and its services. Check the other profiles too."""
        node = root.entries.get("profiles")
        found: dict[str, tuple[Layer, dict[str, Layer]]] = {}
        if node is not None and self._mapping(node, "", "profiles"):
            services = root.entries.get("services")
            known = services.keys if services is not None else {}
            for name, child in node.entries.items():
                section = f"profiles.{name}"
                if self._name("profile", name, Position(*node.keys[name]), section) and self._mapping(
                    child, "", section
                ):
                    found[name] = self._profile(name, child, known)
        wanted = self._wanted
        if wanted is None or (node is not None and wanted in node.keys):
            return found.get(wanted or "", (Layer("defaults"), {}))
        names = list(node.keys) if node is not None else []
        near = did_you_mean(wanted, names)
        at = _position(node) if node is not None else Position(1, 1)
        fix = f"did you mean {near!r}?" if near else f"profiles of the file: {', '.join(names) or 'none'}"
        self._add("E101", at, "", "profiles", f"there is no profile {shown(wanted)}", fix)
        return Layer("defaults"), {}

    def _profile(self, profile: str, node: Node, known: Iterable[str]) -> tuple[Layer, dict[str, Layer]]:
        section = f"profiles.{profile}"
        self._known_keys(node, section, _PROFILE)
        layers: dict[str, Layer] = {}
        services = node.entries.get("services")
        if services is not None and self._mapping(services, section, "services"):
            for name, child in services.entries.items():
                at = Position(*services.keys[name])
                if name not in known:
                    near = did_you_mean(name, known) if self._suggest() else None
                    fix = f"did you mean {near!r}?" if near else "a profile changes services, it does not add any"
                    self._add("E101", at, f"{section}.services", name, f"there is no service {shown(name)}", fix)
                else:
                    layers[name] = Layer("profile", profile)
                    if self._mapping(child, f"{section}.services", name):
                        self._fill(layers[name], child, f"{section}.services.{name}")
                    else:
                        layers[name].bad.update(fields())
        return self._defaults(node, section, Layer("defaults", profile)), layers

    def _services(
        self, root: Node, base: Layer, profile_defaults: Layer, profile_services: Mapping[str, Layer]
    ) -> dict[str, ServiceEntry]:
        node = root.entries.get("services")
        if node is None:
            if "services" not in root.keys:
                self._add("E107", _position(root), "", "services", "is required, but missing", "add services:")
            return {}
        if not self._mapping(node, "", "services"):
            return {}
        entries: dict[str, ServiceEntry] = {}
        known, errors = len(self.problems), 0
        for name, child in node.entries.items():
            section, at = f"services.{name}", Position(*node.keys[name])
            errors += sum(problem.severity == "error" for problem in self.problems[known:])
            known = len(self.problems)
            if errors >= MOST_ERRORS:
                message = f"not checked: the services before it have {errors} errors"
                self._add("E108", at, section, "", message, "correct the others first")
                break
            if not self._name("service", name, at, section):
                continue
            layer = Layer()
            # An empty entry is a service with all its defaults.
            if child.value is not None:
                if not self._mapping(child, "", section):
                    continue
                self._fill(layer, child, section)
            layers = (profile_services.get(name), layer, profile_defaults, base)
            try:
                entries[name] = self._entry(name, at, tuple(each for each in layers if each is not None))
            except TooMuchError:
                message = "the mappings of defaults and profiles, merged into all services, have too many values"
                self._add("E108", at, section, "", message, "say less in defaults, or split the file")
                break
        return entries

    def _entry(self, name: str, at: Position, layers: tuple[Layer, ...]) -> ServiceEntry:
        values = merged(layers, self._budget)
        class_path, init = values.pop("class", None), values.pop("init", {})
        entry = ServiceEntry(
            name=name,
            values=MappingProxyType(values),
            class_path=class_path,
            # Copies, because constructors may change their arguments, and aliases in the file share values.
            args=tuple(plain(init.get("args", ()))),
            kwargs=MappingProxyType(plain(init.get("kwargs", {}))),
            path=self._path,
            at=at,
            layers=layers,
        )
        bad = {path for layer in layers for path in layer.bad}
        good = completed({field: value for field, value in values.items() if field not in bad}, bad)
        found = cross_problems(good)
        self.problems += [file_problem(entry, problem) for problem in found]
        bad |= wrong_fields(found)
        return attrs.evolve(entry, bad=frozenset(bad)) if bad else entry

    def _name(self, kind: str, name: str, at: Position, section: str) -> bool:
        problem = name_problem(kind, name)
        if problem is not None:
            self.problems.append(placed(problem, self._path, at, section.partition(".")[0]))
        return problem is None

    # One mapping with a service's configuration.

    def _fill(self, layer: Layer, node: Node, section: str) -> None:
        own = () if layer.source == "defaults" else _OWN
        layer.bad.update(_left_out(node, None))
        for name, child in node.entries.items():
            key_at = Position(*node.keys[name])
            if name in fields():
                self._take(layer, section, name, key_at, child)
            elif name in GROUPS:
                if self._mapping(child, section, name):
                    self._group(layer, section, name, child)
                else:
                    layer.bad.update(_in_group(name))
            elif name in own:
                walk(child, name, key_at, layer.places)
                known = len(self.problems)
                value = self._class(child, section) if name == "class" else self._init(child, section)
                if value is not None:
                    layer.values[name] = value
                if len(self.problems) > known or child.lacks:
                    layer.bad.add(name)
            elif name in _OWN:
                message, fix = "belongs to the entry of a service, not to defaults", "move it to services"
                self._add("E101", key_at, section, name, message, fix)
            else:
                self._key(layer, key_at, section, name, None, own)

    def _key(  # noqa: PLR0913, PLR0917 - a key and its place
        self, layer: Layer, at: Position, section: str, name: str, group: str | None, own: Sequence[str]
    ) -> bool:
        """Whether a key belongs where it stands. Report it if it does not."""
        suggest = self._suggest()
        problem = misplaced_key(name, group, own, suggest=suggest)
        if problem is None:
            return True
        layer.bad.update(_meant(name, group, own, suggest=suggest))
        self.problems.append(placed(problem, self._path, at, section))
        return False

    def _group(self, layer: Layer, section: str, group: str, node: Node) -> None:
        layer.bad.update(_left_out(node, group))
        for name, child in node.entries.items():
            key_at = Position(*node.keys[name])
            if self._key(layer, key_at, section, name, group, _OWN):
                self._take(layer, section, name, key_at, child)

    def _take(self, layer: Layer, section: str, name: str, key_at: Position, node: Node) -> None:
        if name in layer.places:
            # A merged key may stand before or after the mapping's own key.
            first, second = sorted((layer.places[name].key, key_at), key=attrs.astuple)
            message = f"is set a second time, first on line {first.line}"
            self._add("E104", second, section, name, message, "remove one of them")
            return
        walk(node, name, key_at, layer.places)
        value, problems = read_value(name, node.value)
        found = self._check(name, value, problems, node, section, layer.places)
        if found and name in {"methods", "options"}:
            value, wrong = without_wrong_parts(name, value, found)
            layer.bad |= wrong
        elif found or node.lacks:
            layer.bad.add(name)
        if name not in layer.bad or not found:
            layer.values[name] = value

    def _check(  # noqa: PLR0913, PLR0917 - a value and all that is known about it
        self,
        name: str,
        value: Any,
        problems: Sequence[Problem],
        node: Node,
        section: str,
        places: Mapping[str, Place],
    ) -> Sequence[Problem]:
        """Report the *problems* of one field's value, each at its place, and return them."""
        for problem in problems:
            place = places.get(problem.key, places[name])
            about_key = problem.id in ABOUT_KEYS or _names_method(problem, value)
            at = place.key if about_key else place.value
            path = problem.key.split(".")[1:]
            written = as_written(problem, _below(value, path), _below(node.value, path), place.variables)
            self.problems.append(placed(written, self._path, at, section))
        return problems

    def _class(self, node: Node, section: str) -> str | None:
        text = node.value
        fix = "write package.module:Class"
        if not isinstance(text, str):
            self._add("E102", _position(node), section, "class", f"must be a string, got {_shown(node)}", fix)
            return None
        module, colon, name = text.partition(":")
        if colon and all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
            return text
        self._add("E103", _position(node), section, "class", f"{_shown(node)} is not the path of a class", fix)
        return None

    def _init(self, node: Node, section: str) -> dict[str, Any] | None:
        if not self._mapping(node, section, "init"):
            return None
        good: dict[str, Any] = {}
        for name, child in node.entries.items():
            if name not in _INIT:
                problem = unknown_key(f"init.{name}", name, _INIT, suggest=self._suggest())
                self.problems.append(placed(problem, self._path, Position(*node.keys[name]), section))
            elif name == "kwargs":
                if self._mapping(child, section, "init.kwargs"):
                    good[name] = child.value
            elif child.kind == "list":
                good[name] = child.value
            else:
                message = f"must be a list, got {_shown(child)}"
                self._add("E102", _position(child), section, "init.args", message)
        return good


def _in_group(group: str | None) -> set[str]:
    return {name for name, info in fields().items() if info.group == group}


def _left_out(node: Node, group: str | None) -> set[str]:
    """Return the fields of a mapping whose values are not in the tree, because they are invalid YAML."""
    keys = [name for name in node.keys if name not in node.entries]
    groups = {field for name in keys if group is None and name in GROUPS for field in _in_group(name)}
    return groups.union(name for name in keys if name in fields() or name in _OWN)


def _meant(name: str, group: str | None, own: Sequence[str], *, suggest: bool) -> set[str]:
    """Return the fields that the user may have meant with a misplaced or unknown key."""
    if name in fields():
        return {name}
    if name in GROUPS or name in own or not suggest:
        return set()
    if group is None:
        near = did_you_mean(name, [*own, *GROUPS, *fields()])
        return _in_group(near) if near in GROUPS else {near} if near else set()
    near = did_you_mean(name, _in_group(group)) or did_you_mean(name, fields())
    return {near} if near else set()


def _names_method(problem: Problem, value: Any) -> bool:
    """Whether a problem of the mapping `methods` is about a method's name, which is a key."""
    name = problem.key.removeprefix("methods.")
    return problem.id == "E103" and name != problem.key and isinstance(value, Mapping) and name in value


def _below(value: Any, path: Sequence[str]) -> Any:
    """Return what a value has at *path*, or the value itself if it has nothing there."""
    found = value
    for part in path:
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return value
    return found


def _shown(node: Node) -> str:
    return shown_from(node.value, node.variables)


def _position(node: Node) -> Position:
    return Position(node.line, node.column)
