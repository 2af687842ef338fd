"""Registers services: in code, by the short forms, and from files."""

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
    The methods of `Environment` that register services. Thread-safe.

    A later registration of a name replaces the earlier one. A running service does not change: `plan` shows the
    difference, and `apply` makes the change.
    """

    _services: Services

    def register_service(self, service_name: str, service_class: type, /, *args: Any, **kwargs: Any) -> ServiceFactory:
        """
        Register a class. The remaining arguments go to its constructor.

        A loaded file can configure the service. By default, one replica in this process runs one call at a time.

        Raises:
            ConfigError: The name is not valid.
            ValueError: *service_class* is not a class.
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
        Register a class with its configuration. The remaining arguments go to its constructor.

        This configuration wins over any file.

        Args:
            service_name: The service's name.
            service_class: Its class.
            *args: For its constructor.
            deployment_config: The configuration. A mapping is read and checked like the service's entry in a file.
            **kwargs: For its constructor.

        Raises:
            ConfigError: The name or *deployment_config* is not valid.
            ValueError: *service_class* is not a class.
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
        Register a class with one replica on each of *nodes*. Several replicas get a load balancer.

        Args:
            service_name: The service's name.
            service_class: Its class.
            *args: For its constructor.
            nodes: Names, IDs or addresses of the nodes.
            threads: Threads of each replica. More than one selects the strategy `pool`.
            **rest: Arguments named like configuration fields, such as `memory_mb`, set these fields. All others go to
                the constructor.

        Raises:
            ConfigError: The name or a setting is not valid, or *nodes* already decides that setting.
            ValueError: *service_class* is not a class.
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
        Register a class with *pool_size* replicas in this process. Several replicas get a load balancer.

        Args:
            service_name: The service's name.
            service_class: Its class.
            *args: For its constructor.
            pool_size: Number of replicas.
            max_threads: Threads of all replicas together. Each replica gets an equal part, rounded down, but at least
                one. More than one selects the strategy `pool`. None for one thread each.
            **rest: Arguments named like configuration fields, such as `gpu_count`, set these fields. All others go to
                the constructor.

        Raises:
            ConfigError: The name or a setting is not valid, or *pool_size* already decides that setting.
            ValueError: *service_class* is not a class.
        """
        from sage_plugins.config.shorthand import local_pool, split

        settings, kwargs = split(rest)
        config = local_pool(pool_size, max_threads, settings)
        return self.register_service_with_config(service_name, service_class, *args, deployment_config=config, **kwargs)

    def register_service_factory(self, service_name: str, service_factory: Any) -> Any:
        """
        Register and return a factory: any object with `create_service(ctx)`, `service_name` and `service_class`.

        Raises:
            ConfigError: The name is not valid.
            TypeError: The factory lacks one of them.
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
        Read a deployment file. Its entries configure services registered before or after.

        An entry with `class:` also registers its service. A configuration in code wins over the file. Running services
        do not change until `apply`. Loading a file again replaces its earlier contents.

        Args:
            path: The YAML file.
            profile: Which of its `profiles` to apply.

        Raises:
            ConfigError: The file has problems. Lists all, each as `file:line:column: error E101: what (fix)`.
        """
        self._services.load(self._reader().read(path, profile=profile))
        self._services.profiles[os.fspath(path)] = profile

    def reload(self) -> None:
        """
        Read all loaded files again, with the same profiles. Running services do not change until `apply`.

        Raises:
            ConfigError: A file has problems; lists all. The earlier contents of all files stay in force.
        """
        for source in self._read_again():
            self._services.load(source)

    def _read_again(self) -> list[ConfigSource]:
        reader, profiles = self._reader(), self._services.profiles
        return [reader.read(path, profile=profile) for path, profile in profiles.items()]

    def _reader(self) -> ConfigReader:
        reader: ConfigReader = self._services.registry.find("file reader", "yaml").registration.create(None)
        return reader
