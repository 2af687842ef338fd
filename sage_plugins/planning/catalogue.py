"""The catalogue: all services of an environment and their configurations, from code and files."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from sage_plugins.config.service_config import ServiceDeploymentConfig, fields
from sage_plugins.errors import ConfigError, PlanError, PluginError, ServiceNotFoundError
from sage_plugins.planning.choices import Finder, check_config, choose
from sage_plugins.planning.composition import compose
from sage_plugins.planning.environment_options import GivenOptions, checked
from sage_plugins.service.factory import ServiceFactory
from sage_plugins.values import Problem, Where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sage_plugins.config.origins import Origin
    from sage_plugins.interfaces import ConfigEntry, ConfigSource
    from sage_plugins.planning.composition import Composition
    from sage_plugins.plugins.registry import Registry

__all__ = ["Catalogue"]

_Refusal: TypeAlias = PlanError | ConfigError | PluginError


class _Said(NamedTuple):
    """
    Everything that code and files say about one service, at one moment.

    Attributes:
        factory: The service's factory, registered in code or made for a file's class; None if the class is not imported
            yet.
        in_code: Whether the service was registered in code.
        given: The configuration given in code, or None.
        entry: The entry in the file that was loaded last, or None.
    """

    factory: Any
    in_code: bool
    given: ServiceDeploymentConfig | None
    entry: ConfigEntry | None

    @property
    def config(self) -> ServiceDeploymentConfig:
        """The configuration from code; if none, from the file; if none, the default."""
        if self.given is not None:
            return self.given
        return ServiceDeploymentConfig() if self.entry is None else self.entry.config()

    @property
    def from_file(self) -> bool:
        return self.given is None and self.entry is not None

    def placed(self, problems: Sequence[Problem]) -> list[Problem]:
        """Return the problems. If the configuration comes from a file, they have their places in it."""
        return list(problems) if self.given is not None or self.entry is None else list(self.entry.placed(problems))


class Catalogue:
    """
    The services of an environment as they are configured, whether they run or not.

    Thread-safe.
    """

    def __init__(
        self, options: Mapping[str, Mapping[str, Any]] | None = None, environment_name: str | None = None
    ) -> None:
        """
        Make an empty catalogue.

        Args:
            options: Options of plugins for the whole environment, by ID. They take precedence over files.
            environment_name: The environment's name.

        Raises:
            ConfigError: *options* is not a mapping of IDs to mappings.
        """
        self._options = checked(options)
        self._environment_name = environment_name
        self._factories: dict[str, Any] = {}  # registered in code; _lock guards this and the next four
        self._configs: dict[str, ServiceDeploymentConfig] = {}  # given in code
        self._files: dict[str, ConfigSource] = {}  # by path
        self._entries: dict[str, ConfigEntry] = {}  # for each service, from the file loaded last
        self._built: dict[str, ServiceFactory] = {}  # for entries with a class
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """Replace the lock in a forked child: the thread that held it does not exist there."""
        self._lock = threading.Lock()

    def snapshot(self) -> Catalogue:
        """Return a copy that later registrations and files do not change."""
        copy = Catalogue(self._options, self._environment_name)
        with self._lock:
            copy._factories = dict(self._factories)
            copy._configs = dict(self._configs)
            copy._files = dict(self._files)
            copy._entries = dict(self._entries)
            copy._built = dict(self._built)
        return copy

    def register(self, name: str, factory: Any, config: ServiceDeploymentConfig | None) -> None:
        """Register a service. Without *config*, its configuration comes from a file, or is the default."""
        with self._lock:
            self._factories[name] = factory
            self._configs.pop(name, None)
            if config is not None:
                self._configs[name] = config

    def load(self, file: ConfigSource) -> None:
        """Add a file. It replaces its own earlier content, and other files' entries of the same names."""
        with self._lock:
            before = self._entries
            self._files.pop(file.path, None)
            self._files[file.path] = file
            self._entries = {name: entry for each in self._files.values() for name, entry in each.services.items()}
            for name, entry in before.items():
                if self._entries.get(name) != entry:
                    self._built.pop(name, None)

    @property
    def names(self) -> list[str]:
        """Names of all services that can be deployed: registered in code, or with a class in a file."""
        with self._lock:
            from_files = [name for name, entry in self._entries.items() if entry.class_path is not None]
            return list(dict.fromkeys([*self._factories, *from_files]))

    def knows(self, name: str) -> bool:
        """Whether *name* is one of `names`."""
        with self._lock:
            entry = self._entries.get(name)
            return name in self._factories or (entry is not None and entry.class_path is not None)

    @property
    def factories(self) -> dict[str, Any]:
        """The factories registered in code, by the service's name."""
        with self._lock:
            return dict(self._factories)

    def config(self, name: str) -> ServiceDeploymentConfig:
        """Return a service's configuration: from code, else from the file loaded last, else the default."""
        return self._said(name).config

    def origin(self, name: str) -> Callable[[str], Origin]:
        """Return a function from a path, such as `"timeout"` or `"init.kwargs.backend"`, to the origin of its value."""
        from sage_plugins.config.origins import ARGUMENT, DEFAULT

        said, given = self._said(name), self._given()

        def origin(path: str) -> Origin:
            if path.startswith("environment."):
                _, id, rest = path.split(".", 2)
                return given.origin(id, rest)
            if path.startswith("init."):
                return ARGUMENT if said.in_code or said.entry is None else said.entry.origin(path)
            if said.given is not None:
                return ARGUMENT if _is_set(said.given, path) else DEFAULT
            return DEFAULT if said.entry is None else said.entry.origin(path)

        return origin

    def _given(self) -> GivenOptions:
        with self._lock:
            return GivenOptions(self._options, tuple(self._files.values()))

    def _said(self, name: str) -> _Said:
        with self._lock:
            in_code = name in self._factories
            factory = self._factories[name] if in_code else self._built.get(name)
            return _Said(factory, in_code, self._configs.get(name), self._entries.get(name))

    # -- composing ---------------------------------------------------------------------------------------------------

    def _factory(self, name: str, said: _Said) -> tuple[Any, list[Problem]]:
        """Return a service's factory (None if its class cannot be imported) and the problems of the class."""
        if said.factory is not None:
            return said.factory, []
        if said.entry is None or said.entry.class_path is None:
            msg = f"service {name!r} is not configured any more: register it, or load a file that has it with a class"
            raise ServiceNotFoundError(msg, service=name)
        cls, problems = said.entry.load_class()
        if cls is None:
            return None, problems
        built = ServiceFactory(name, cls, said.entry.args, said.entry.kwargs)
        if problems:
            return built, problems
        with self._lock:
            if self._entries.get(name) != said.entry:  # another file was loaded while the class was imported
                return built, []
            return self._built.setdefault(name, built), []

    def compose(self, name: str, registry: Registry) -> tuple[Composition, list[Problem]]:
        """
        Compose a service; return it with its warnings.

        Raises:
            ServiceNotFoundError: The service is not configured any more.
            UnknownPluginError: No plugin has an ID that the configuration names.
            PlanError: The service cannot be deployed.
            ConfigError: The same for a service in a file; problems have their places. Also if the options for the whole
                environment have problems.
            PluginError: A plugin breaks its contract.
        """
        composition, problems = self._compose(name, self._said(name), registry, self._checked(registry))
        if isinstance(composition, Exception):
            raise composition
        return composition, problems

    def compose_as(self, name: str, factory: Any, config: ServiceDeploymentConfig, registry: Registry) -> Composition:
        """
        Compose a service with the given factory and configuration, which need not be in this catalogue.

        Raises:
            UnknownPluginError, PlanError, ConfigError, PluginError: As `compose`.
        """
        composition, finder = compose(
            factory, config, registry, self._checked(registry), Where(name, self._environment_name)
        )
        if composition is None:
            raise finder.refusal()
        return composition

    @property
    def environment_options(self) -> Mapping[str, Mapping[str, Any]]:
        """Options of plugins for the whole environment, by ID, merged from code and files."""
        return self._given().values()

    def _checked(self, registry: Registry) -> Mapping[str, Mapping[str, Any]]:
        given = self._given()
        if problems := given.problems(registry):
            raise _options_error(problems)
        return given.values()

    def _compose(
        self, name: str, said: _Said, registry: Registry, environment: Mapping[str, Mapping[str, Any]]
    ) -> tuple[Composition | _Refusal, list[Problem]]:
        """Return the composition, or the error to raise if there is none; and all errors and warnings."""
        factory, wrong = self._factory(name, said)
        if factory is None:
            composition, finder = None, Finder(name, said.config, registry, environment)
            choose(finder, said.config)
        else:
            where = Where(name, self._environment_name)
            composition, finder = compose(factory, said.config, registry, environment, where, in_code=said.in_code)
        finder.problems[:0] = wrong
        problems = said.placed(finder.problems)
        if composition is None or finder.errors:
            return finder.refusal(problems if said.from_file else None), problems
        return composition, problems

    def compose_all(self, names: Iterable[str], registry: Registry) -> list[tuple[Composition, list[Problem]]]:
        """
        Compose several services, and report the problems of all together.

        Raises:
            PlanError, ConfigError, PluginError: As `compose`. PlanError if several services have problems.
        """
        composed: list[tuple[Composition, list[Problem]]] = []
        given = self._given()
        problems = given.problems(registry)
        wrong: list[_Refusal] = [_options_error(problems)] if problems else []
        environment = _right(given, problems)
        for name in names:
            try:
                composition, found = self._compose(name, self._said(name), registry, environment)
            except PluginError as error:
                composition, found = error, []
            if isinstance(composition, Exception):
                wrong.append(composition)
            else:
                composed.append((composition, found))
        if len(wrong) == 1:
            raise wrong[0]
        if wrong:
            problems = [problem for error in wrong for problem in getattr(error, "problems", ())]
            raise PlanError("\n".join(map(str, wrong)), problems=problems)
        return composed

    def check(self, registry: Registry, *, import_classes: bool) -> list[Problem]:
        """
        Return the errors and warnings of all services. Does not ask targets to place replicas.

        Args:
            registry: The plugins to choose from.
            import_classes: Whether to import the classes that files name. If not, checks that need them are skipped.

        Raises:
            PluginError: A plugin breaks its contract.
        """
        with self._lock:
            names = list(dict.fromkeys([*self._factories, *self._entries]))
            read = [problem for file in self._files.values() for problem in file.problems]
        given = self._given()
        problems = given.problems(registry)
        environment = _right(given, problems)
        for name in names:
            said = self._said(name)
            if said.in_code or (import_classes and said.entry is not None and said.entry.class_path is not None):
                problems += self._compose(name, said, registry, environment)[1]
            elif said.entry is not None:  # None if a file loaded meanwhile does not have the service
                problems += said.placed(check_config(name, said.config, registry, environment))
        if any(problem.severity == "error" for problem in read):
            # Leave out the warnings: they may change when the file is corrected.
            found = [problem for problem in problems if problem.severity == "error"]
        else:
            found = problems + self.notes(registry)
        return list(dict.fromkeys([*read, *found]))

    def notes(self, registry: Registry) -> list[Problem]:
        """Return warnings about entries and options that have no effect."""
        with self._lock:
            entries = dict(self._entries)
            in_code, configured = set(self._factories), set(self._configs)
        notes = self._given().notes(registry, [self.config(name) for name in {**self.factories, **entries}])
        for name, entry in entries.items():
            if name in configured:
                message = "the entry has no effect: a configuration given in code overrides it"
                notes += entry.placed([Problem("W12", "", message, "remove the one or the other")])
            elif entry.class_path is None and name not in in_code:
                message = "has neither `class` nor a registration, and will not be deployed"
                notes += entry.placed([Problem("W16", "", message, "add class: package.module:Class")])
        return notes


def _options_error(problems: Sequence[Problem]) -> ConfigError:
    return ConfigError("\n".join(map(str, problems)), problems=problems)


def _right(given: GivenOptions, problems: Iterable[Problem]) -> dict[str, dict[str, Any]]:
    """Return the options without problems, so that services do not report those problems again."""
    wrong = {problem.key.split(".")[1] for problem in problems}
    return {id: values for id, values in given.values().items() if id not in wrong}


def _is_set(config: ServiceDeploymentConfig, path: str) -> bool:
    """Whether the value at *path* differs from its field's default. For `options`: whether it exists."""
    name, _, rest = path.partition(".")
    if name == "options":
        found: Any = config.options
        for part in rest.split("."):
            if not hasattr(found, "get") or part not in found:
                return False
            found = found[part]
        return True
    return name not in config.derived and bool(getattr(config, name) != fields()[name].default)
