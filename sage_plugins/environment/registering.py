"""How services are registered: in code, by the short forms, and by files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sage_plugins.config.entries import check_service_name, config_of
from sage_plugins.service.factory import ServiceFactory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.environment.services import Services
    from sage_plugins.interfaces import ConfigReader, ConfigSource

__all__ = ["Registering"]


class Registering:
    """
    The part of an environment where services are registered. All methods are safe from any thread.

    Registering a name again replaces what it stood for. A service that runs goes on as it is: `plan` shows what would
    change, and `apply` changes it.
    """

    _services: Services

    def register_service(self, service_name: str, service_class: type, /, *args: Any, **kwargs: Any) -> ServiceFactory:
        """
        Register a class; every other argument goes to its constructor.

        It is deployed as a loaded file says, else as one replica in this process that runs one call at a time.

        Raises:
            ConfigError: The service cannot have that name.
            ValueError: The class is no class.
        """
        factory = ServiceFactory(service_name, service_class, args, kwargs)
        self._services.register(service_name, factory, None)
        return factory

    def register_service_with_config(
        self,
        service_name: str,
        service_class: type,
        /,
        *args: Any,
        deployment_config: ServiceDeploymentConfig | Mapping[str, Any],
        **kwargs: Any,
    ) -> ServiceFactory:
        """
        Register a class and how it is deployed; every other argument goes to its constructor.

        The configuration given here beats any file.

        Args:
            service_name: Name of the service.
            service_class: Its class.
            *args: For its constructor.
            deployment_config: How it is deployed; a mapping is read and checked like the service's entry in a file.
            **kwargs: For its constructor.

        Raises:
            ConfigError: The service cannot have that name, or *deployment_config* is not valid.
            ValueError: The class is no class.
        """
        config = config_of(deployment_config)
        factory = ServiceFactory(service_name, service_class, args, kwargs)
        self._services.register(service_name, factory, config)
        return factory

    def register_service_on_nodes(
        self,
        service_name: str,
        service_class: type,
        /,
        *args: Any,
        nodes: Sequence[str],
        threads: int = 1,
        **rest: Any,
    ) -> ServiceFactory:
        """
        Register a class with one replica on each of *nodes*, and balancing if there are several.

        Args:
            service_name: Name of the service.
            service_class: Its class.
            *args: For its constructor.
            nodes: Names, IDs or addresses of the nodes.
            threads: Threads of each replica; more than one is strategy `pool`.
            **rest: Names of configuration fields, such as `memory_mb`, set these; all others go to the constructor.

        Raises:
            ConfigError: The service cannot have that name.
            ValueError: The class is no class.
            ConfigError: A setting is not valid, or *nodes* decides it already.
        """
        from sage_plugins.config.shorthand import on_nodes, split

        settings, kwargs = split(rest)
        config = on_nodes(nodes, threads, settings)
        return self.register_service_with_config(service_name, service_class, *args, deployment_config=config, **kwargs)

    def register_local_service_pool(
        self,
        service_name: str,
        service_class: type,
        /,
        *args: Any,
        pool_size: int,
        max_threads: int | None = None,
        **rest: Any,
    ) -> ServiceFactory:
        """
        Register a class with several replicas in this process, and balancing if there are several.

        Args:
            service_name: Name of the service.
            service_class: Its class.
            *args: For its constructor.
            pool_size: Number of replicas.
            max_threads: Threads of all replicas together: each gets an equal part, rounded down, but at least one.
                More than one is strategy `pool`. None for one each.
            **rest: Names of configuration fields, such as `gpu_count`, set these; all others go to the constructor.

        Raises:
            ConfigError: The service cannot have that name.
            ValueError: The class is no class.
            ConfigError: A setting is not valid, or *pool_size* decides it already.
        """
        from sage_plugins.config.shorthand import local_pool, split

        settings, kwargs = split(rest)
        config = local_pool(pool_size, max_threads, settings)
        return self.register_service_with_config(service_name, service_class, *args, deployment_config=config, **kwargs)

    def register_service_factory(self, service_name: str, service_factory: Any) -> Any:
        """
        Register a factory: anything with `create_service(ctx)`, `service_name` and `service_class`; returns it.

        Raises:
            ConfigError: The service cannot have that name.
            TypeError: It lacks one of these.
        """
        check_service_name(service_name)
        missing = [
            part for part in ("create_service", "service_name", "service_class") if not hasattr(service_factory, part)
        ]
        if missing:
            msg = f"the factory of service {service_name!r} lacks {', '.join(missing)}: {service_factory!r}"
            raise TypeError(msg)
        self._services.register(service_name, service_factory, None)
        return service_factory

    def load_service_deployment_config(self, path: str | PathLike[str], *, profile: str | None = None) -> None:
        """
        Read a deployment file; its entries apply to services registered before or after.

        An entry with `class:` is a service of its own. A configuration given in code beats the file. Services that run
        go on as they are; `apply` has them run as the file says. Loading a file again replaces what it said before.

        Args:
            path: The YAML file.
            profile: Which of its `profiles` to apply.

        Raises:
            ConfigError: With every problem of the file, each as `file:line:column: error E101: what (fix)`.
        """
        self._services.load(self._reader().read(path, profile=profile))
        self._services.profiles[os.fspath(path)] = profile

    def reload(self) -> None:
        """
        Read all files again that were loaded, with the profiles chosen then. What runs goes on; `apply` changes it.

        Raises:
            ConfigError: With every problem of a file; then what they all said before counts.
        """
        for source in self._read_again():
            self._services.load(source)

    def _read_again(self) -> list[ConfigSource]:
        reader, profiles = self._reader(), self._services.profiles
        return [reader.read(path, profile=profile) for path, profile in profiles.items()]

    def _reader(self) -> ConfigReader:
        reader: ConfigReader = self._services.registry.find("file reader", "yaml").registration.create(None)
        return reader
