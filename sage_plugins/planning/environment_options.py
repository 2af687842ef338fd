"""Merges and checks the options of plugins for a whole environment, from code and from files."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sage_plugins.config.service_config import field_problems, plain
from sage_plugins.config.structure import structure
from sage_plugins.errors import ConfigError, PluginError, text_of
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sage_plugins.config.origins import Origin
    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.interfaces import ConfigSource
    from sage_plugins.plugins.registry import Registry
    from sage_plugins.values import EnvironmentOptions

__all__ = ["NO_OPTIONS", "GivenOptions", "checked", "environment_options"]

#: No options for the whole environment.
NO_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})


def checked(options: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """
    Return a copy of the options of plugins, by ID; empty for None.

    Raises:
        ConfigError: *options* is not a mapping of IDs to mappings.
    """
    given = {} if options is None else options
    problems = field_problems("options", given)
    if problems:
        raise ConfigError("\n".join(map(str, problems)), problems=problems)
    copy: dict[str, dict[str, Any]] = plain(given)
    return copy


def environment_options(
    declared: EnvironmentOptions, given: Mapping[str, Mapping[str, Any]]
) -> tuple[Any, list[Problem]]:
    """
    Return an instance of the declared class, or None and all problems.

    Args:
        declared: The environment options that a plugin declares.
        given: The options of all plugins, by ID.
    """
    return structure(declared.options_class(), given.get(declared.id, {}), key=f"options.{declared.id}")


class GivenOptions(NamedTuple):
    """
    The options for a whole environment from code and files, by ID.

    If an option is set several times, the value from code wins, then the value of the file loaded last.

    Attributes:
        in_code: The options given in code.
        files: The files, in the order in which they were loaded.
    """

    in_code: Mapping[str, Mapping[str, Any]] = NO_OPTIONS
    files: Sequence[ConfigSource] = ()

    def values(self) -> dict[str, dict[str, Any]]:
        """Return all options, merged."""
        merged: dict[str, dict[str, Any]] = {}
        for options in (*(file.options for file in self.files), self.in_code):
            for id, values in options.items():
                merged.setdefault(id, {}).update(values)
        return merged

    def origin(self, id: str, path: str) -> Origin:
        """Return where the option of *id* at *path*, such as `"address"`, was set."""
        from sage_plugins.config.origins import ARGUMENT, DEFAULT

        name = path.partition(".")[0]
        if name in self.in_code.get(id, {}):
            return ARGUMENT
        for file in reversed(self.files):
            if name in file.options.get(id, {}):
                return file.origin(f"options.{id}.{path}")
        return DEFAULT

    def problems(self, registry: Registry) -> list[Problem]:
        """
        Return all problems of options that a plugin reads. Problems in files have their places.

        Raises:
            PluginError: A plugin's options class cannot be used.
        """
        found: list[Problem] = []
        readers, given = registry.environment_options(), self.values()
        for id in given:
            if id not in readers:
                continue
            try:
                _, wrong = environment_options(readers[id].registration, given)
            except Exception as error:
                source = readers[id].plugin.source
                msg = f"options '{id}' from {source} have no class that can be used: {text_of(error)}"
                raise PluginError(msg) from error
            found += map(self._placed, wrong)
        return found

    def notes(self, registry: Registry, configs: Sequence[ServiceDeploymentConfig]) -> list[Problem]:
        """Return a warning for each option that no installed plugin reads, or that no service needs."""
        if not self.values():
            return []
        readers = registry.environment_options()
        used = {
            entry.registration.environment_options.id
            for (kind, id), entry in registry.entries().items()
            if entry.registration.environment_options is not None and any(id in _named(each)[kind] for each in configs)
        }
        used |= set(registry.ids("extension"))  # extensions are used without a service that names them
        notes: list[Problem] = []
        for id in self.values():
            message = "has no effect: no installed plugin reads options for the whole file by this ID"
            fix = "remove it"
            if id in readers:
                message = f"has no effect: no service uses a plugin of {readers[id].plugin.source} that reads it"
            elif any(id == known for _, known in registry.entries()):
                message = "has no effect: it is the ID of a plugin whose options belong to each service"
                fix = "move it to the options of the services, or to defaults"
            else:
                fix = registry.advice("options", id, readers) or fix
            if id not in used:
                notes += self._placed_everywhere(Problem("W12", f"options.{id}", message, fix))
        return notes

    def _placed(self, problem: Problem) -> Problem:
        _, id, *path = problem.key.split(".")
        if path and path[0] in self.in_code.get(id, {}):
            return problem
        for file in reversed(self.files):
            values = file.options.get(id)
            # A missing option (E107) has no place of its own: it belongs where the file names the plugin.
            if values is not None and (not path or path[0] in values or problem.id == "E107"):
                return file.placed([problem])[0]
        return problem

    def _placed_everywhere(self, problem: Problem) -> list[Problem]:
        id = problem.key.partition(".")[2]
        found = [placed for file in self.files if id in file.options for placed in file.placed([problem])]
        return [*found, problem] if id in self.in_code else found


def _named(config: ServiceDeploymentConfig) -> dict[str, tuple[str | None, ...]]:
    """Return the IDs that a configuration names, by kind of plugin."""
    return {
        "target": (config.target,),
        "threading strategy": (config.threading_strategy,),
        "load balancer": (config.load_balancer,),
        "monitor": tuple(config.monitors),
    }
