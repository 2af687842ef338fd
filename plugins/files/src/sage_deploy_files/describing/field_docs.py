"""
Describes each key of a deployment file: its place, type, range, default, meaning, and the keys below it.

Declarations describe the configuration fields, and options classes the options of plugins. This module itself describes
only the keys that structure the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_deploy_files.describing.option_docs import registered_options
from sage_plugins.config.field_checks import Unit, shown
from sage_plugins.config.nested_keys import METHOD_FIELDS
from sage_plugins.config.service_config import GROUPS, fields, plain
from sage_plugins.errors import ConfigError, PluginError
from sage_plugins.plugins.registry import Registry
from sage_plugins.texts import did_you_mean
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sage_deploy_files.describing.option_docs import OptionDoc
    from sage_plugins.config.field_checks import FieldInfo
    from sage_plugins.plugins.registry import Registered, RegisteredOptions

__all__ = ["FieldDoc", "explain"]

#: Names in snippets where a file has its own names.
_SERVICE: Final = "my_service"
_METHOD: Final = "my_method"
_PROFILE: Final = "my_profile"
_CLASS: Final = "my_module:MyService"

#: Placeholder for the name of a method in paths.
_ANY: Final = "<name>"

_ENTRY: Final = ("services", _SERVICE)

_GROUP_DOCS: Final = {
    "deployment": "Where the service runs, on which threads, how many replicas it has, and which one gets a call.",
    "resources": "Resources for each replica.",
    "performance": "How long calls may take, and how many may wait.",
    "health": "How the health of replicas is checked.",
    "monitoring": "What is recorded about the service.",
}


@attrs.frozen
class FieldDoc:
    """
    The description of one key of a deployment file.

    Attributes:
        path: The key with the keys above it, as `explain` accepts it, such as `"performance.timeout"`. Empty: the file.
        doc: Its meaning.
        type: The values it accepts, in words.
        range: The allowed values, in words. Empty if the type says everything.
        unit: Unit of the number, such as `"seconds"`. Empty if it has none.
        decided_by: What acts on the field, such as `"strategy"`. Empty for options and for keys that structure a file.
        required: Whether it must be set.
        has_default: Whether it has a default.
        default: The default, as plain types.
        snippet: A deployment file, as plain types, that sets this key and little else.
        keys: The keys below it.
    """

    path: str
    doc: str
    type: str = "mapping"
    range: str = ""
    unit: Unit = ""
    decided_by: str = ""
    required: bool = False
    has_default: bool = False
    default: Any = None
    snippet: Any = None
    keys: tuple[FieldDoc, ...] = ()

    def walk(self) -> Iterator[FieldDoc]:
        """Yield all keys below it, on every level."""
        for key in self.keys:
            yield key
            yield from key.walk()


def explain(path: str = "", discover: Callable[[], Registry] = Registry.discover) -> tuple[FieldDoc, ...]:
    """
    Describe a key of a deployment file.

    Args:
        path: The key with the keys above it, separated by dots: `timeout`, `performance.timeout`,
            `methods.get.batch.size`, `options.pool`, `class`, `profiles`. It may start at the top of the file, as in
            messages: `services.kv.timeout`. Empty: the whole file.
        discover: Returns the plugins. Called only if options are asked for.

    Returns:
        One description. For options: one for each kind of plugin with this ID.

    Raises:
        ConfigError: There is no such key. The message has the nearest one.
        UnknownPluginError: No plugin has the ID whose options are asked for.
        PluginConflictError: As for `Registry.discover`.
    """
    words = _below_service(path.split(".") if path else [])
    method = _METHOD
    match words:
        case ["options", id, *rest]:
            return _options_of(path, id, rest, discover())
        case ["methods", word, *_] if word not in METHOD_FIELDS:
            # Any other word is the name of a method.
            method = _METHOD if word == _ANY else word
            words[1] = _ANY
        case ["methods", _, *_]:
            words.insert(1, _ANY)
        case [word, *_] if word in fields() and (group := fields()[word].group):
            words.insert(0, group)
        case ["options"]:
            return (_options_of_all(discover()),)
    file = _file(method)
    known = {doc.path: doc for doc in file.walk()} | {"": file}
    found = known.get(".".join(words))
    if found is None:
        raise _unknown(path, words, [*known, *fields()])
    return (found,)


def _below_service(words: list[str]) -> list[str]:
    """Remove the path from the top of the file to a service or to defaults."""
    match words:
        case ["services", _, key, *rest] | ["profiles", _, "services", _, key, *rest]:
            return [key, *rest]
        case ["defaults", key, *rest] | ["profiles", _, "defaults", key, *rest]:
            return [key, *rest]
    return words


def _unknown(path: str, words: list[str], paths: Iterable[str]) -> ConfigError:
    paths = [path for path in paths if path]
    in_place = [path for path in paths if path.rpartition(".")[2] == words[-1]]  # the right key in the wrong place
    near = did_you_mean(".".join(words), in_place or paths) or next(iter(in_place), None)
    fix = f"did you mean {near!r}?" if near else "`sage-deploy explain` lists what there is"
    problem = Problem("E101", path, "is no key of a deployment file", fix)
    return ConfigError(f"{shown(path)} {problem.message} ({fix})", problems=[problem])


def _file(method: str) -> FieldDoc:
    """Describe the file and all keys below it. *method* is the placeholder name of any method."""
    service = (
        FieldDoc(
            "class",
            "The class, as package.module:Class. An entry without it configures a service that Python code registers.",
            type="string",
            snippet=_under((*_ENTRY, "class"), _CLASS),
        ),
        FieldDoc(
            "init",
            "Arguments of the class's constructor.",
            snippet=_under((*_ENTRY, "init"), {"args": ["first"], "kwargs": {"name": "value"}}),
            keys=(
                FieldDoc(
                    "init.args",
                    "The arguments without a name.",
                    type="list",
                    snippet=_under((*_ENTRY, "init", "args"), ["first"]),
                ),
                FieldDoc(
                    "init.kwargs",
                    "The arguments with a name.",
                    snippet=_under((*_ENTRY, "init", "kwargs"), {"name": "value"}),
                ),
            ),
        ),
        *(_group(group) for group in GROUPS),
        *(_field(info, method) for info in fields().values() if info.group is None),
    )
    deployment = {"performance": {"timeout": 10}}
    return FieldDoc(
        "",
        "A deployment file: the services, and how each is deployed.",
        snippet=_under(_ENTRY, {"class": _CLASS}),
        keys=(
            FieldDoc(
                "version",
                "Version of the file's format.",
                type="1",
                has_default=True,
                default=1,
                snippet={"version": 1, **_under(_ENTRY, {"class": _CLASS})},
            ),
            FieldDoc(
                "defaults",
                "Settings of every service that does not override them: the keys of a service, except class and init.",
                snippet={"defaults": deployment, **_under(_ENTRY, {"class": _CLASS})},
            ),
            FieldDoc(
                "profiles",
                "Profiles by name: defaults and services that differ, such as in production; --profile chooses one.",
                snippet={
                    **_under(_ENTRY, {"class": _CLASS}),
                    "profiles": {_PROFILE: {"defaults": deployment}},
                },
            ),
            FieldDoc(
                "services",
                "The services by name. A name is a letter, then up to 62 letters, digits, '_' and '-'.",
                required=True,
                snippet=_under(_ENTRY, {"class": _CLASS}),
                keys=service,
            ),
        ),
    )


def _under(place: Iterable[str], value: Any) -> dict[str, Any]:
    """Return nested mappings that hold *value* at *place*."""
    for key in reversed(tuple(place)):
        value = {key: value}
    return dict(value)


def _group(group: str) -> FieldDoc:
    infos = [info for info in fields().values() if info.group == group]
    return FieldDoc(
        group,
        _GROUP_DOCS[group],
        snippet=_under((*_ENTRY, group), {infos[0].name: _example(infos[0], "")}),
        keys=tuple(_field(info, "") for info in infos),
    )


def _field(info: FieldInfo, method: str) -> FieldDoc:
    """Describe a field and, if it is a mapping with declared keys, all keys below it."""
    path = (info.name,) if info.group is None else (info.group, info.name)
    found = _described(info, path, (*_ENTRY, *path), method)
    if info.kind == "methods":
        any_method = FieldDoc(
            f"{found.path}.{_ANY}",
            "Settings of one method.",
            snippet=_under((*_ENTRY, *path, method), {"timeout": 10}),
            keys=_keys(info, (*path, _ANY), (*_ENTRY, *path, method), method),
        )
        return attrs.evolve(found, has_default=True, keys=(any_method,))
    return attrs.evolve(found, has_default=True)


def _described(info: FieldInfo, path: tuple[str, ...], place: tuple[str, ...], method: str) -> FieldDoc:
    return FieldDoc(
        ".".join(path),
        info.doc,
        type=info.type,
        range=info.range,
        unit=info.unit,
        decided_by=info.role,
        has_default=info.default is not None,
        default=plain(info.default),
        snippet=_under(place, _example(info, method)),
        keys=() if info.kind == "methods" else _keys(info, path, place, method),
    )


def _keys(info: FieldInfo, path: tuple[str, ...], place: tuple[str, ...], method: str) -> tuple[FieldDoc, ...]:
    return tuple(_described(key, (*path, name), (*place, name), method) for name, key in info.keys.items())


def _example(info: FieldInfo, method: str) -> Any:
    """Return a value that the field accepts: its default, unless the default is empty."""
    if info.default is not None and info.default != {}:
        return plain(info.default)
    least = 1 if not info.minimum else info.minimum
    mapping = {name: _example(key, method) for name, key in info.keys.items()}
    return {
        "integer": least,
        "number": least + 1 if info.exclusive and info.minimum else least,
        "boolean": True,
        "string": info.choices[0] if info.choices else "name",
        "strings": ["name"],
        "labels": {"label": "value"},
        "mapping": mapping or {"key": "value"},
        "methods": {method: {"timeout": 10}},
        "batch": mapping,
        "options": {"pool": {"idle_timeout": 10}},
    }[info.kind]


# Options of plugins.


def _options_of(path: str, id: str, rest: list[str], registry: Registry) -> tuple[FieldDoc, ...]:
    found = []
    for_file = registry.environment_options().get(id)
    if for_file is not None:
        words = (
            f"Options for the whole file, at its top, from {for_file.plugin.source}: {for_file.registration.summary}"
        )
        found.append(_options_doc(for_file, words, ()))
    if for_file is None or id in {known for _, known in registry.entries()}:
        found += [
            _options_doc(entry, f"Options of the {kind} '{id}' from {entry.plugin.source}", _ENTRY)
            for kind, entry in registry.find_all(id)
            if for_file is None or kind != "extension"  # its options are for the whole file
        ]
    if not rest:
        return tuple(found)
    wanted = ".".join(("options", id, *rest))
    known = {key.path: key for doc in found for key in doc.walk()}
    matching = tuple(key for doc in found for key in doc.walk() if key.path == wanted)
    if not matching:
        raise _unknown(path, ["options", id, *rest], known)
    return matching


def _options_doc(entry: Registered | RegisteredOptions, words: str, above: tuple[str, ...]) -> FieldDoc:
    """Describe a plugin's options. They stand under `options` below *above*."""
    id = entry.registration.id
    place = (*above, "options", id)
    keys = tuple(_option(option, ("options", id), place) for option in registered_options(entry))
    return FieldDoc(
        f"options.{id}",
        words + ("." if keys else ": it has none."),
        snippet=_with_service(_under(place, dict([_setting(keys[0], above)]) if keys else {})),
        keys=keys,
    )


def _with_service(snippet: dict[str, Any]) -> dict[str, Any]:
    """Return the snippet, with a service added if it has none: a file needs one."""
    return snippet if "services" in snippet else snippet | _under(_ENTRY, {"class": _CLASS})


def _options_of_all(registry: Registry) -> FieldDoc:
    """Describe the field `options`, with the options of each installed plugin, for a service or for the whole file."""
    found: list[FieldDoc] = []
    for id in sorted({id for _, id in registry.entries()} | set(registry.environment_options())):
        try:
            found += (doc for doc in _options_of("", id, [], registry) if doc.keys)
        except PluginError as error:  # an error of one plugin must not hide the others
            found.append(FieldDoc(f"options.{id}", str(error)))
    return attrs.evolve(_field(fields()["options"], ""), keys=tuple(found))


def _setting(key: FieldDoc, above: tuple[str, ...]) -> tuple[str, Any]:
    """Return the key, without *above*, and its value in its snippet."""
    value = key.snippet
    for word in (*above, *key.path.split(".")):
        value = value[word]
    return key.path.rpartition(".")[2], value


def _option(option: OptionDoc, path: tuple[str, ...], place: tuple[str, ...]) -> FieldDoc:
    path, place = (*path, option.name), (*place, option.name)
    return FieldDoc(
        ".".join(path),
        option.doc,
        type=option.type,
        required=option.required,
        has_default=not option.required and not option.computed,
        default=option.default,
        snippet=_with_service(
            _under(place, f"<{option.type}>" if option.required or option.computed else option.default)
        ),
        keys=tuple(_option(below, path, place) for below in option.options),
        unit=option.unit,
    )
