"""The content of a deployment file: the whole file and one entry for each service, with the place of every value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_deploy_files.reading.layers import Layer, find_place, origin_of
from sage_deploy_files.reading.mistakes import concerns, without_mistakes
from sage_deploy_files.reading.problems import (
    FileProblem,
    Position,
    in_order,
    placed,
)
from sage_plugins.config.origins import DEFAULT
from sage_plugins.config.secrets import masked
from sage_plugins.config.service_config import ServiceDeploymentConfig, plain

if TYPE_CHECKING:
    from sage_deploy_files.reading.layers import Place
    from sage_plugins.config.origins import Origin
    from sage_plugins.values import Problem


__all__ = ["DeploymentFile", "ServiceEntry", "file_problem"]


#: IDs of problems that concern a key, not its value.
ABOUT_KEYS: Final = frozenset({"E101", "E104", "E107", "E505", "E704"})


def _repr_masked(values: Mapping[str, Any]) -> str:
    return repr(masked(plain(values)))


@attrs.frozen
class ServiceEntry:
    """
    The file's settings for one service, with its profile and defaults applied.

    Entries are equal if their settings are equal; places do not matter.

    Attributes:
        name: The service's name.
        values: The configuration fields that the file sets, by flat name. The others have their defaults.
        class_path: The service's class as `"package.module:Class"`, or None.
        args: Positional arguments of the class's constructor.
        kwargs: Keyword arguments of the class's constructor.
        path: The file, as the caller named it.
        at: Where the file names the service.
        layers: The parts of the file that configure the service, highest priority first.
        bad: Paths of wrong values. Empty in a file that `read` returns.
    """

    name: str
    values: Mapping[str, Any] = attrs.field(repr=_repr_masked)
    class_path: str | None
    args: tuple[Any, ...] = attrs.field(repr=False)  # arguments without names: any of them may be a secret
    kwargs: Mapping[str, Any] = attrs.field(repr=_repr_masked)
    path: str = attrs.field(eq=False, repr=False)
    at: Position = attrs.field(eq=False, repr=False)
    layers: tuple[Layer, ...] = attrs.field(eq=False, repr=False)
    bad: frozenset[str] = attrs.field(default=frozenset(), eq=False, repr=False)

    @cached_property
    def _sound(self) -> tuple[Mapping[str, Any], frozenset[str]]:
        return without_mistakes(self.values, self.bad) if self.bad else (self.values, self.bad)

    @property
    def section(self) -> str:
        """Path of the service's own entry in the file."""
        return f"services.{self.name}"

    def place(self, path: str) -> Place | None:
        """Return the place of a value by its path, such as `"timeout"`, `"class"` or `"options.pool.idle_timeout"`."""
        found = find_place(self.layers, path)
        return None if found is None else found[1]

    def origin(self, path: str) -> Origin:
        """Return what set the value at a path such as `"timeout"`, `"methods.get.timeout"` or `"init.kwargs.path"`."""
        return origin_of(self.layers, path, self.path) or DEFAULT

    def config(self) -> ServiceDeploymentConfig:
        """Return the service's configuration. Fields that the file sets wrongly have their defaults."""
        return ServiceDeploymentConfig(**self._sound[0])

    def load_class(self) -> tuple[type | None, list[Problem]]:
        """Import the class that `class_path` names. Return it, or None on failure, and the problems found."""
        from sage_deploy_files.reading.loading import load_class

        return load_class(self)

    def placed(self, problems: Sequence[Problem]) -> list[FileProblem]:
        """
        Add places to problems of the service, and sort them in the order of the file.

        Problems of values that the file sets wrongly are dropped: they are already reported, or concern the default
        that replaces the value.
        """
        unknown = self._sound[1]
        return in_order(file_problem(self, problem) for problem in problems if not concerns(problem, unknown))


@attrs.frozen
class DeploymentFile:
    """
    A deployment file, read and checked as far as the core can.

    Files are equal if their settings are equal; places do not matter.

    Attributes:
        path: The file, as the caller named it.
        services: The services by name, in the order of the file.
        options: Options of plugins for the whole environment, by plugin ID. The plugins check them.
        problems: All errors and warnings, errors first. A file that `read` returns has no errors.
        profile: Name of the chosen profile, or None.
        layer: Places of the values under `options`.
    """

    path: str = attrs.field(eq=False)
    services: Mapping[str, ServiceEntry]
    options: Mapping[str, Mapping[str, Any]] = attrs.field(repr=_repr_masked)
    problems: tuple[FileProblem, ...] = attrs.field(eq=False)
    profile: str | None = attrs.field(eq=False)
    layer: Layer = attrs.field(eq=False, repr=False)

    @property
    def section(self) -> str:
        """Empty: paths of values start at the top of the file."""
        return ""

    @property
    def at(self) -> Position:
        """The beginning of the file."""
        return Position(1, 1)

    def place(self, path: str) -> Place | None:
        """Return the place of a value by its path, such as `"options.ray.address"`."""
        return self.layer.places.get(path)

    def origin(self, path: str) -> Origin:
        """Return what set the value at a path such as `"options.ray.address"`."""
        return origin_of((self.layer,), path, self.path) or DEFAULT

    def placed(self, problems: Sequence[Problem]) -> list[FileProblem]:
        """Add places to problems of the options, and sort them in the order of the file."""
        return in_order(file_problem(self, problem) for problem in problems)


def file_problem(entry: ServiceEntry | DeploymentFile, problem: Problem) -> FileProblem:
    """
    Add the place to a problem: that of its key, or of the longest part of the key that the file has.

    A value that the file does not set has no place. If it conflicts with another value, the other one's place is used.

    Args:
        entry: What the problem's key refers to: a service's entry, or the file for its `options`.
        problem: A problem from the core or from a plugin's check.
    """
    parts = problem.key.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    place = next((found for prefix in prefixes if (found := entry.place(prefix)) is not None), None)
    other = entry.place(problem.other) if problem.other else None
    if place is not None:
        at = place.key if problem.id in ABOUT_KEYS else place.value
    else:
        at = entry.at if other is None else other.value
    return placed(problem, entry.path, at, entry.section, None if other is None else other.value)
