"""The interface of readers of configuration files, and what a reader returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from sage_plugins.config.origins import Origin
    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.values import Problem

__all__ = ["ConfigEntry", "ConfigReader", "ConfigSource"]


class ConfigEntry(Protocol):
    """One service in a file. Entries with equal content are equal, wherever they are."""

    @property
    def class_path(self) -> str | None:
        """The class as `"package.module:Class"`; None for a service registered in code."""

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments of its constructor."""

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """Keyword arguments of its constructor."""

    def config(self) -> ServiceDeploymentConfig:
        """Return how the service is deployed."""

    def load_class(self) -> tuple[type | None, list[Problem]]:
        """Import the class; return it, or None if that fails, and the problems. The core checks the arguments."""

    def origin(self, path: str) -> Origin:
        """Return what set the value at a path: `"timeout"`, `"methods.get.timeout"`, `"init.kwargs.backend"`."""

    def placed(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """Return *problems* with their places in the file, sorted by place."""


class ConfigSource(Protocol):
    """The content of one file."""

    @property
    def path(self) -> str:
        """The file, as the caller named it. Reading the same path again replaces this."""

    @property
    def services(self) -> Mapping[str, ConfigEntry]:
        """The services by name, in file order."""

    @property
    def options(self) -> Mapping[str, Mapping[str, Any]]:
        """Options of plugins for the whole environment, by ID; the plugins check them."""

    @property
    def problems(self) -> Sequence[Problem]:
        """Problems found while reading; from `read`, only warnings."""

    def origin(self, path: str) -> Origin:
        """Return what set the value at a path such as `"options.ray.address"`."""

    def placed(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """As `ConfigEntry.placed`, for problems of the options."""


class ConfigReader(Protocol):
    """Reads files of one format; thread-safe."""

    def read(self, path: str | PathLike[str], *, profile: str | None = None) -> ConfigSource:
        """
        Read and check a file; import and run nothing that it names.

        *profile*: the profile of the file to apply.

        Raises:
            ConfigError: The file has problems; the error has all, with places.
        """

    def examine(self, path: str | PathLike[str], *, profile: str | None = None) -> ConfigSource:
        """
        As `read`, but wrong content raises nothing: the result's `problems` include errors.

        The result lacks the wrong parts; its `placed` adds no place to problems about them.
        """
