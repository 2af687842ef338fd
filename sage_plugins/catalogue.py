"""Which services there are and how each is to be deployed: from registrations in code, and from files."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from sage_plugins.config import ServiceDeploymentConfig
from sage_plugins.errors import ConfigError, PlanError, PluginError, ServiceNotFoundError, UnknownPluginError
from sage_plugins.factory import compose
from sage_plugins.origins import ARGUMENT, DEFAULT
from sage_plugins.service import ServiceFactory
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sage_plugins.deployment_file.reader import DeploymentFile, ServiceEntry
    from sage_plugins.origins import Origin
    from sage_plugins.plugins import Registry
    from sage_plugins.task import Composition

__all__ = ["Catalogue"]


class Catalogue:
    """
    The services of an environment as they are configured, whatever runs.

    All methods are safe from any thread.

    Attributes:
        factories: The factories registered in code, by the service's name.
    """

    def __init__(self) -> None:
        self.factories: dict[str, Any] = {}  # guarded by _lock, as the next four
        self._configs: dict[str, ServiceDeploymentConfig] = {}  # given in code
        self._files: dict[str, DeploymentFile] = {}  # by path
        self._entries: dict[str, ServiceEntry] = {}  # the one that counts, of the file loaded last
        self._built: dict[str, ServiceFactory] = {}  # for entries with a class
        self._lock = threading.RLock()

    def snapshot(self) -> Catalogue:
        """A copy: what is registered or loaded meanwhile does not change what is made of it."""
        copy = Catalogue()
        with self._lock:
            copy.factories = dict(self.factories)
            copy._configs = dict(self._configs)
            copy._files = dict(self._files)
            copy._entries = dict(self._entries)
            copy._built = dict(self._built)
        return copy

    def after_fork(self) -> None:
        """In a forked child: the lock may be held by a thread that is not here."""
        self._lock = threading.RLock()

    def register(self, name: str, factory: Any, config: ServiceDeploymentConfig | None) -> None:
        """Have *factory* build the service *name*; without *config* it is deployed as a file says, or by default."""
        with self._lock:
            self.factories[name] = factory
            self._configs.pop(name, None)
            if config is not None:
                self._configs[name] = config

    def load(self, file: DeploymentFile) -> None:
        """Take what a file says; it replaces what the same file said before, and other files' entries of its names."""
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
        """Every service that can be deployed: those registered, and those that a file names with a class."""
        with self._lock:
            from_files = [name for name, entry in self._entries.items() if entry.class_path is not None]
            return list(dict.fromkeys([*self.factories, *from_files]))

    def config(self, name: str) -> ServiceDeploymentConfig:
        """How a service is to be deployed: as code says, else as the file loaded last says, else by default."""
        with self._lock:
            config = self._configs.get(name)
            entry = self._entries.get(name)
        if config is not None:
            return config
        if entry is None:
            return ServiceDeploymentConfig()
        from sage_plugins.deployment_file.reader import entry_config  # only what a file names needs the reader of files

        return entry_config(entry)

    def origin(self, name: str) -> Callable[[str], Origin]:
        """Who set the value at a path of a service's configuration, such as `"timeout"` or `"init.kwargs.backend"`."""
        with self._lock:
            in_code = name in self.factories
            config = self._configs.get(name)
            entry = self._entries.get(name)

        def origin(path: str) -> Origin:
            if path.startswith("init."):
                return ARGUMENT if in_code or entry is None else entry.origin(path)
            if config is not None:
                return ARGUMENT if _is_set(config, path) else DEFAULT
            return DEFAULT if entry is None else entry.origin(path)

        return origin

    def _entry(self, name: str) -> ServiceEntry | None:
        """The entry of a file that says how *name* is deployed, unless code does."""
        with self._lock:
            return None if name in self._configs else self._entries.get(name)

    # -- composing ---------------------------------------------------------------------------------------------------

    def factory(self, name: str) -> tuple[Any, list[Problem]]:
        """What builds a service, or None if the class that a file names is not there; and what is wrong with it."""
        with self._lock:
            found = self.factories.get(name) or self._built.get(name)
            if found is not None:
                return found, []
            entry = self._entries.get(name)
        if entry is None:
            msg = f"service {name!r} is not configured any more: its file was loaded again without it"
            raise ServiceNotFoundError(msg, service=name)
        from sage_plugins.deployment_file.entry_class import load_class  # as in `config`

        cls, problems = load_class(entry)
        if cls is None:
            return None, problems
        built = ServiceFactory(name, cls, entry.args, entry.kwargs)
        if problems:
            return built, problems
        with self._lock:
            return self._built.setdefault(name, built), []

    def compose(self, name: str, registry: Registry) -> tuple[Composition, list[Problem]]:
        """
        Decide everything about a service, and give the warnings.

        Raises:
            UnknownPluginError: It names an ID that no plugin has.
            PlanError, ConfigError: It cannot be deployed so; of a service from a file each problem has its place.
            PluginError: A plugin breaks its contract.
        """
        config = self.config(name)
        factory, wrong = self.factory(name)
        found: tuple[Composition, list[Problem]] | None = None
        error: PlanError | UnknownPluginError | None = None
        try:
            if factory is None:
                from sage_plugins.choices import check_config

                wrong += check_config(name, config, registry)
            else:
                found = compose(factory, config, registry)
        except (PlanError, UnknownPluginError) as caught:
            error = caught
            wrong += caught.problems
        entry = self._entry(name)
        if found is not None and not wrong:
            return (found[0], found[1]) if entry is None else (found[0], _placed(entry, found[1]))
        if entry is None:
            assert error is not None  # noqa: S101 - a class that is given needs no import
            raise error
        problems = _placed(entry, wrong)
        lines = "\n".join(str(problem) for problem in problems if problem.severity == "error")
        if isinstance(error, UnknownPluginError) and "\n" not in lines:
            raise UnknownPluginError(lines, kind=error.kind, id=error.id, problems=problems) from None
        raise ConfigError(lines, problems=problems) from None

    def compose_all(self, names: Iterable[str], registry: Registry) -> list[tuple[Composition, list[Problem]]]:
        """
        Compose services, and report what is wrong with any of them at once.

        Raises:
            PlanError, ConfigError, PluginError: As `compose`; a PlanError if there is something wrong with several.
        """
        composed: list[tuple[Composition, list[Problem]]] = []
        wrong: list[PlanError | ConfigError | PluginError] = []
        for name in names:
            try:
                composed.append(self.compose(name, registry))
            except (PlanError, ConfigError, PluginError) as error:
                wrong.append(error)
        if len(wrong) == 1:
            raise wrong[0]
        if wrong:
            problems = [problem for error in wrong for problem in getattr(error, "problems", ())]
            raise PlanError("\n".join(map(str, wrong)), problems=problems)
        return composed

    def check(self, registry: Registry, *, import_classes: bool) -> list[Problem]:
        """
        Everything that is wrong or doubtful with any service, errors and warnings; nothing is placed.

        Args:
            registry: The plugins to choose from.
            import_classes: Whether to import the classes that files name; if not, what depends on them is left out.

        Raises:
            PluginError: A plugin breaks its contract.
        """
        from sage_plugins.choices import check_config

        with self._lock:
            names = list(dict.fromkeys([*self.factories, *self._entries]))
            built = {name for name, entry in self._entries.items() if entry.class_path is not None and import_classes}
        problems: list[Problem] = []
        for name in names:
            if name in self.factories or name in built:
                try:
                    problems += self.compose(name, registry)[1]
                except (PlanError, ConfigError, UnknownPluginError) as error:
                    problems += error.problems
            else:
                problems += _placed(self._entries[name], check_config(name, self.config(name), registry))
        return problems + self.notes()

    def notes(self) -> list[Problem]:
        """What files say without effect."""
        with self._lock:
            files, entries = list(self._files.values()), dict(self._entries)
            in_code, configured = set(self.factories), set(self._configs)
        notes: list[Problem] = []
        for file in files:
            unread = "has no effect: no installed plugin reads options for the whole file"
            notes += _placed(
                file, [Problem("W12", f"options.{plugin}", unread, "remove it") for plugin in file.options]
            )
        for name, entry in entries.items():
            if name in configured:
                message = "the entry has no effect: a configuration given in code beats it"
                notes += _placed(entry, [Problem("W12", "", message, "remove the one or the other")])
            elif entry.class_path is None and name not in in_code:
                message = "has neither `class` nor a registration, and will not be deployed"
                notes += _placed(entry, [Problem("W16", "", message, "add class: package.module:Class")])
        return notes


def _placed(entry: ServiceEntry | DeploymentFile, problems: Sequence[Problem]) -> list[Problem]:
    from sage_plugins.deployment_file.reader import file_problem

    return [file_problem(entry, problem) for problem in problems]


def _is_set(config: ServiceDeploymentConfig, path: str) -> bool:
    """Whether the value at *path* is another than the default of its field; of options, whether it is there."""
    name, _, rest = path.partition(".")
    if name == "options":
        found: Any = config.options
        for part in rest.split("."):
            if not hasattr(found, "get") or part not in found:
                return False
            found = found[part]
        return True
    from sage_plugins.config import fields

    return bool(getattr(config, name) != fields()[name].default)
