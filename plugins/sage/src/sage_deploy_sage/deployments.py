"""Deploys the services of one SAGE environment: chooses them, starts and stops them, and routes calls to them."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from sage_deploy_sage.routing import DeployedFactory, FunctionMaker
from sage_plugins import Environment
from sage_plugins.errors import ConfigError, SageDeployError, ServiceNotFoundError
from sage_plugins.service.callers import AsyncServiceCaller, ServiceCaller
from sage_plugins.texts import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from os import PathLike

    from sage_plugins import ServiceFactory, ServiceHandle

__all__ = ["Deployments"]


class _Registration(NamedTuple):
    """
    A service that was registered with a configuration.

    Attributes:
        again: Registers it in another environment of sage-deploy, and returns its factory.
        factory: The factory of its latest registration.
    """

    again: Callable[[Environment], ServiceFactory]
    factory: ServiceFactory


class Deployments:
    """
    The services that sage-deploy runs for one environment of SAGE.

    An `Environment` of sage-deploy does the work. After it was closed, a new one is created with everything registered
    again, because an environment of SAGE can be filled and submitted again.

    Attributes:
        names: The services of the last deployment that sage-deploy runs.
        left: Why SAGE runs a service itself, by service.
        call_service: Calls the services in `names`.
        call_service_async: The same, but returns futures.
    """

    def __init__(self, sage: Any, leave: Iterable[str] = (), options: Mapping[str, Any] | None = None) -> None:
        """
        Deploy nothing yet.

        Args:
            sage: The environment of SAGE.
            leave: Names of services that SAGE should run itself.
            options: As for `Environment`.

        Raises:
            TypeError: *leave* is a single name.
        """
        if isinstance(leave, str):
            msg = f"leave takes several names, got {leave!r}: give [{leave!r}]"
            raise TypeError(msg)
        self._sage = sage
        self._leave = frozenset(leave)
        self._options = options
        self._lock = threading.RLock()  # guards the rest; never held while services start or stop
        self._registered: dict[str, _Registration] = {}
        self._files: list[tuple[Path, str | None]] = []
        self._taken: dict[str, Any] = {}  # factories in the current environment, by name
        self._batches = 0
        self._kept = False  # whether services keep running after the last batch run
        self._borrowed = 0  # number of submits that need what `_lend` put in place
        self._lent: list[Callable[[], None]] = []
        self.names: frozenset[str] = frozenset()
        self.left: dict[str, str] = {}
        self._only_files = Environment(sage.name)  # only deployment files are loaded into it
        self._over = False
        self._current = self._make()

    # -- the environment of sage-deploy ------------------------------------------------------------------------------

    def _make(self) -> Environment:
        env = Environment(self._sage.name, options=self._options)
        find = partial(self._find, env)
        self.call_service = ServiceCaller(find)
        self.call_service_async = AsyncServiceCaller(find)
        return env

    def _find(self, env: Environment, name: str) -> ServiceHandle:
        """
        Return a handle to a service that sage-deploy runs.

        Raises:
            ServiceNotFoundError: There is none of this name.
        """
        self._refuse_left(name)
        return env.service(name)

    def _refuse_left(self, name: str) -> None:
        why = self.left.get(name)
        if why is not None:
            msg = (
                f"service {name!r} is SAGE's own, because {why}: only functions of the pipeline and other services of "
                "SAGE can call it, and there is no handle to it and no status of it"
            )
            raise ServiceNotFoundError(msg, service=name)

    @property
    def registered(self) -> Collection[str]:
        """The names of the services that are registered in SAGE."""
        return self._sage.service_factories.keys()  # type: ignore[no-any-return]

    @property
    def last(self) -> Environment:
        """The current environment of sage-deploy. If closed, its counts can still be read."""
        with self._lock:
            return self._current

    @property
    def open(self) -> Environment:
        """
        An open environment of sage-deploy with everything registered so far.

        Raises:
            ConfigError: A file can no longer be read.
            DeployError: A running service was registered again.
        """
        with self._lock:
            env = self._configured()
            left = self._find_left()
            early = [name for name in left if self._taken.get(name) is self._original(name)]
            if early and env.running():
                for name in early:  # it was deployed before the pipeline had that source, so it stays deployed
                    del left[name]
            elif early:
                self._over = True  # nothing in it runs, and services cannot be unregistered
                env = self._configured()
            self.left = left
            self._take_over(env)
            return env

    def _configured(self) -> Environment:
        """Return an open environment with the files and the services that were registered with a configuration."""
        if self._over:
            self._over = False
            self._taken.clear()
            self._current = self._make()
            for name, registration in list(self._registered.items()):
                if self._is_current(name):
                    self._remember(name, registration.again, registration.again(self._current))
            for path, profile in self._files:
                self._current.load_service_deployment_config(path, profile=profile)
        return self._current

    # -- registering -------------------------------------------------------------------------------------------------

    def register(self, name: str, again: Callable[[Environment], ServiceFactory]) -> ServiceFactory:
        """
        Register a service with a configuration. Return its factory.

        Args:
            name: The service's name.
            again: Registers it in an environment of sage-deploy.

        Raises:
            ConfigError: The service is left to SAGE, or its configuration is not valid.
        """
        if name in self._leave:
            msg = f"service {name!r} is in `leave`, and SAGE reads no configuration: use register_service"
            raise ConfigError(msg)
        with self._lock:
            return self._remember(name, again, again(self._configured()))

    def _remember(
        self, name: str, again: Callable[[Environment], ServiceFactory], factory: ServiceFactory
    ) -> ServiceFactory:
        self._registered[name] = _Registration(again, factory)
        self._taken[name] = self._sage.service_factories[name] = factory
        self.left.pop(name, None)
        return factory

    def load(self, path: str | PathLike[str], profile: str | None) -> None:
        """
        Read a deployment file.

        Raises:
            ConfigError: The file has problems. It lists all of them.
        """
        with self._lock:
            self._configured().load_service_deployment_config(path, profile=profile)
            self._only_files.load_service_deployment_config(path, profile=profile)
            self._files.append((Path(path).absolute(), profile))

    def _original(self, name: str) -> Any:
        factory = self._sage.service_factories.get(name)
        return factory.original if isinstance(factory, DeployedFactory) else factory

    def _is_current(self, name: str) -> bool:
        """Whether the latest registration of the service is the one with a configuration."""
        registration = self._registered.get(name)
        return registration is not None and registration.factory is self._original(name)

    def _plain(self) -> Iterator[tuple[str, Any]]:
        """Yield names and factories of services that were registered without a configuration."""
        for name in list(self._sage.service_factories):
            factory = self._original(name)
            if factory is not None and not self._is_current(name):
                yield name, factory

    def _take_over(self, env: Environment) -> None:
        """Register services without a configuration in *env*, except those left to SAGE."""
        for name, factory in self._plain():
            if name not in self.left and self._taken.get(name) is not factory:
                env.register_service_factory(name, factory)
                self._registered.pop(name, None)
                self._taken[name] = factory

    def _find_left(self) -> dict[str, str]:
        """Return why SAGE must run services itself, by name."""
        left = {}
        for name, factory in self._plain():
            missing = [part for part in ("service_name", "service_class") if not hasattr(factory, part)]
            if name in self._leave:
                left[name] = "its name is in `leave`"
            elif missing:
                left[name] = f"its factory lacks {' and '.join(missing)}"
            else:
                # The service waits for the pipeline, and only SAGE keeps the pipeline moving within a call.
                step = self._shares_with_a_source(factory)
                if step is not None and not self._is_in_file(name):
                    left[name] = f"it shares an object with the source {step!r} and may wait for what comes from there"
        return left

    def _check_leave(self) -> None:
        """
        Check that the services in `leave` are registered.

        Raises:
            ConfigError: One is not. With a misspelt name, the service would be deployed.
        """
        registered = self._sage.service_factories
        for name in sorted(self._leave - registered.keys()):
            near = did_you_mean(name, registered)
            hint = f"did you mean {near!r}?" if near else f"registered: {', '.join(registered) or 'none'}"
            msg = f"leave: no service {name!r} is registered: {hint}"
            raise ConfigError(msg)

    def _is_in_file(self, name: str) -> bool:
        files = self._only_files
        try:
            files.task(name)  # an entry with a class is a service of its own
        except ServiceNotFoundError:
            entries = [problem for problem in files.check(import_classes=False) if problem.id == "W16"]
            return any(getattr(problem, "section", "") == f"services.{name}" for problem in entries)
        except SageDeployError:  # the entry has an error, which deploying it will report
            return True
        return True

    def _shares_with_a_source(self, factory: Any) -> str | None:
        arguments = getattr(factory, "service_args", ()), getattr(factory, "service_kwargs", {})
        shared = {id(value) for value in _objects(*arguments)}
        for step in self._sage.pipeline:
            given = _objects(step.function_args, step.function_kwargs)
            if step.is_spout and not shared.isdisjoint(map(id, given)):
                return str(step.basename)
        return None

    # -- looking -----------------------------------------------------------------------------------------------------

    def service(self, name: str) -> ServiceHandle:
        """
        Return a handle to a service that sage-deploy runs. Start nothing.

        Raises:
            ServiceNotFoundError: There is none of this name.
        """
        return self._find(self.open, name)

    def status(self, name: str) -> dict[str, Any]:
        """
        Return a service's status. It may have stopped.

        Raises:
            ServiceNotFoundError: There is none of this name.
        """
        with self._lock:
            env = self._current if self._over else self.open
        self._refuse_left(name)
        return env.get_service_status(name)

    # -- running -----------------------------------------------------------------------------------------------------

    def deploy(self, timeout: float | None = None) -> None:
        """
        Start every service that does not run yet, all or none. They run until `close`.

        Raises:
            PlanError, ConfigError, UnknownPluginError, DeployError: As `Environment.deploy`.
        """
        self._deploy(timeout)
        with self._lock:
            self._kept = True

    def _deploy(self, timeout: float | None = None) -> Environment:
        env = self.open
        self._check_leave()
        env.deploy(timeout)
        for name, why in self.left.items():
            self._sage.logger.info("Service %r stays SAGE's own: %s", name, why)
        with self._lock:
            if env is self._current:
                self.names = frozenset(env.running())
        return env

    @contextmanager
    def around(self, *, batch: bool) -> Iterator[None]:
        """
        Wrap a `submit`: deploy the services and route the pipeline's calls to them before SAGE begins.

        A batch run ends when `submit` returns, and the services that it started end with it; earlier ones keep running.
        A stream keeps running after `submit`, and its services run until `close`.

        Args:
            batch: Whether `submit` returns after everything has run.

        Raises:
            PlanError, ConfigError, UnknownPluginError, DeployError: As `Environment.deploy`. SAGE begins nothing.
        """
        with self._lock:
            before = self._kept or (self._batches == 0 and not self._over and bool(self._current.running()))
            self._kept = before or not batch
            self._batches += batch
        patient = True
        try:
            self._deploy()
            self._lend()
            try:
                yield
            finally:
                self._take_back()
        except BaseException as error:
            with self._lock:
                self._kept = before
            patient = isinstance(error, Exception)  # after Ctrl-C, do not wait for calls
            raise
        finally:
            with self._lock:
                self._batches -= batch
                last = self._batches == 0 and not self._kept
            if last:
                self.close(None if patient else 0)

    def close(self, drain_timeout: float | None = None) -> None:
        """Stop all services, as `Environment.close`. A later deployment starts new ones."""
        with self._lock:
            env, self._over, self._kept = self._current, True, False
        env.close(drain_timeout)

    # -- into the pipeline -------------------------------------------------------------------------------------------

    def _lend(self) -> None:
        """Replace what SAGE reads when it starts a pipeline."""
        with self._lock:
            self._borrowed += 1
            for step in self._sage.pipeline:
                if not isinstance(step.function_class, FunctionMaker):
                    self._lent.append(partial(setattr, step, "function_class", step.function_class))
                    step.function_class = FunctionMaker(step.function_class, self)
            factories = self._sage.service_factories
            for name in self.names:
                if not isinstance(factories.get(name), DeployedFactory):
                    service_class = self._current.task(name).composition.factory.service_class
                    factories[name] = deployed = DeployedFactory(factories.get(name), self, name, service_class)
                    self._lent.append(partial(_put_back, factories, name, deployed))

    def _take_back(self) -> None:
        """Restore the user's environment. The running pipeline has already read the replacements."""
        with self._lock:
            self._borrowed -= 1
            if not self._borrowed:
                lent, self._lent = self._lent, []
                for restore in lent:
                    restore()


def _put_back(factories: dict[str, Any], name: str, deployed: DeployedFactory) -> None:
    if factories.get(name) is not deployed:  # registered again meanwhile
        return
    if deployed.original is None:
        del factories[name]
    else:
        factories[name] = deployed.original


def _objects(args: Iterable[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """Yield arguments through which parts of a program can share state: no numbers, texts, classes, functions."""
    for value in (*args, *kwargs.values()):
        if type(value).__module__ != "builtins" and not isinstance(value, (type, Enum, PurePath)):
            yield value
