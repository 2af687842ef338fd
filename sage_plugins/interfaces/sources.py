"""Configuration files: their reader, and what it returns."""

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
    """One service in a source. Entries are equal if they say the same, wherever they stand."""

    @property
    def class_path(self) -> str | None:
        """The service's class as `"package.module:Class"`; None for a service that is registered in code."""

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments of the class's constructor."""

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """Keyword arguments of the class's constructor."""

    def config(self) -> ServiceDeploymentConfig:
        """How the service is deployed."""

    def load_class(self) -> tuple[type | None, list[Problem]]:
        """Import the class; return None if that fails, and its problems. The core checks the arguments."""

    def origin(self, path: str) -> Origin:
        """Who set the value at a path such as `"timeout"`, `"methods.get.timeout"` or `"init.kwargs.backend"`."""

    def placed(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """Add the places in the source to the problems of the service, and sort them by place."""


class ConfigSource(Protocol):
    """The content of one file."""

    @property
    def path(self) -> str:
        """The file, as the caller named it. Reading it again replaces its earlier content."""

    @property
    def services(self) -> Mapping[str, ConfigEntry]:
        """The services by name, in the order of the file."""

    @property
    def options(self) -> Mapping[str, Mapping[str, Any]]:
        """The options of plugins for the whole environment, by ID; the plugins check them."""

    @property
    def problems(self) -> Sequence[Problem]:
        """The problems that reading found. If `read` raised no ConfigError, these are warnings only."""

    def origin(self, path: str) -> Origin:
        """Who set the value at a path such as `"options.ray.address"`."""

    def placed(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """Add the places in the file to the problems of the options, and sort them by place."""


class ConfigReader(Protocol):
    """Reads files of one format; safe from any thread."""

    def read(self, path: str | PathLike[str], *, profile: str | None = None) -> ConfigSource:
        """
        Read and check a file; import and run nothing that it names.

        Args:
            path: The file.
            profile: Name of a profile of the file to apply; None for none.

        Raises:
            ConfigError: With every problem of the file, each with its place.
        """

    def examine(self, path: str | PathLike[str], *, profile: str | None = None) -> ConfigSource:
        """
        As `read`, but the content of the file raises nothing: `problems` of the result includes the errors.

        The result leaves out the wrong parts, and gives no place to problems about them.
        """
