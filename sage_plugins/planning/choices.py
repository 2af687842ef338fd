"""Finds the plugins that a configuration names, reads their options, and runs their checks. Needs no service class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import attrs

from sage_plugins.config.cross_rules import cross_problems
from sage_plugins.config.nested_keys import AUTOSCALE_FIELDS
from sage_plugins.config.service_config import fields
from sage_plugins.config.structure import structure
from sage_plugins.errors import ConfigError, PlanError, PluginConflictError, PluginError, UnknownPluginError, text_of
from sage_plugins.planning.environment_options import NO_OPTIONS, environment_options
from sage_plugins.texts import counted
from sage_plugins.values import Choice, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.plugins.registry import Registry

__all__ = ["NO_HEALTH_CHECK", "Choices", "Finder", "check_config", "choose"]

#: Why health-check settings and hooks have no effect.
NO_HEALTH_CHECK: Final = "no monitor of the service checks health"

#: Kinds of plugins that a service chooses.
_KINDS: Final = frozenset({"target", "threading strategy", "load balancer", "monitor", "autoscaler"})

_HEALTH_FIELDS: Final = ("health_check_interval", "health_check_timeout", "failure_threshold", "success_threshold")


class Choices(NamedTuple):
    """
    The plugins of one service.

    Attributes:
        target: The target; None if there is no such plugin.
        strategy: The threading strategy; None if there is no such plugin.
        balancer: The load balancer; None without balancing, or if there is no such plugin.
        monitors: The monitors, without those for which there is no plugin.
        default_balancer: ID of the balancer that is used if the configuration names none.
        autoscaler: The autoscaler; None if the number of replicas is fixed, or if there is no such plugin.
    """

    target: Choice | None
    strategy: Choice | None
    balancer: Choice | None
    monitors: tuple[Choice, ...]
    default_balancer: str
    autoscaler: Choice | None

    @property
    def check_health(self) -> bool:
        """Whether one of the monitors calls `check_health` and `check_ready`."""
        return any("checks_health" in choice.registration.capabilities for choice in self.monitors)


def policy_of(config: ServiceDeploymentConfig) -> str | None:
    """Return the ID of the configured or default autoscaler; None if the number of replicas is fixed."""
    if config.autoscale is None:
        return None
    policy: str = config.autoscale.get("policy", AUTOSCALE_FIELDS["policy"].default)
    return policy


class Finder:
    """
    Looks up plugins for one service and collects all problems.

    Attributes:
        config: Configuration of the service.
        problems: All errors and warnings found so far.
        refused: One error for each ID that no plugin has, or that several have.
    """

    def __init__(
        self,
        service: str,
        config: ServiceDeploymentConfig,
        registry: Registry,
        environment: Mapping[str, Mapping[str, Any]] = NO_OPTIONS,
    ) -> None:
        self._service = service
        self.config = config
        self._registry = registry
        self._environment = environment
        self.problems: list[Problem] = []
        self.refused: list[UnknownPluginError | PluginConflictError] = []

    def find(self, kind: str, id: str, key: str) -> Choice | None:
        """
        Look up *id*, which the configuration names at *key*; read its options and run its check.

        Returns:
            The choice; None if there is no such plugin. Wrong options, of the service or of the environment, are None
            in it.

        Raises:
            PluginError: The plugin's check failed, or its options class cannot be used.
        """
        try:
            found = self._registry.find(kind, id, service=self._service)
        except (UnknownPluginError, PluginConflictError) as error:
            self.refused.append(error)
            self.problems += [attrs.evolve(problem, key=key) for problem in error.problems]
            return None
        registration = found.registration
        id = registration.id  # without the distribution's name, which a configuration may put before it
        given = self.config.options.get(id, {})
        options = environment = None
        wrong: list[Problem] = []
        try:
            options_class = registration.options_class()
            if options_class is not None:
                options, wrong = structure(options_class, given, key=f"options.{id}")
            if registration.environment_options is not None:
                environment, lacking = environment_options(registration.environment_options, self._environment)
                wrong += [_of_environment(problem, key) for problem in lacking]
        except Exception as error:
            msg = f"{kind} '{id}' from {found.plugin.source} has no options class that can be used: {text_of(error)}"
            raise PluginError(msg) from error
        self.problems += wrong
        if options_class is None and given:
            self.problems.append(Problem("E101", f"options.{id}", f"{kind} '{id}' has no options", "remove them"))
        choice = Choice(registration, options, found.plugin, environment)
        if registration.check is not None and not wrong:
            try:
                self.problems.extend(map(_problem, registration.check(self.config, *choice.settings)))
            except Exception as error:
                msg = (
                    f"{kind} '{id}' from {found.plugin.source} failed to check service '{self._service}': "
                    f"{text_of(error)}"
                )
                raise PluginError(msg) from error
        return choice

    def unused_options(self, choices: Choices) -> list[Problem]:
        """Return a warning for options that no chosen plugin reads, so that none is silently ignored."""
        config = self.config
        used = {each.id for each in (*choices[:3], choices.autoscaler, *choices.monitors) if each is not None}
        named = {config.target, config.threading_strategy, config.load_balancer, policy_of(config), *config.monitors}
        known = {id for kind, id in self._registry.entries() if kind in _KINDS} if config.options else set()
        problems: list[Problem] = []
        for id in config.options:
            if id in used or (id in named and id != config.load_balancer):
                continue
            message, fix = "the service does not use that plugin", "remove them"
            if id in self._registry.environment_options():
                message, fix = "these options are for all services together", "move them to the top of the file"
            elif id not in known:
                message = "no such plugin is installed"
                fix = self._registry.advice("plugin", id, sorted(known)) or fix
            problems.append(Problem("W12", f"options.{id}", f"has no effect: {message}", fix))
        return problems

    @property
    def errors(self) -> list[Problem]:
        """The problems that prevent the deployment of the service."""
        return [problem for problem in self.problems if problem.severity == "error"]

    def refusal(self, placed: Sequence[Problem] | None = None) -> PlanError | ConfigError | PluginError:
        """
        Return the error to raise because of the problems.

        Args:
            placed: All problems, with their places in a file; None if the service is configured in code.

        Returns:
            UnknownPluginError or PluginConflictError if the only error is an ID that no plugin has, or that several
            have. Otherwise ConfigError for a service from a file, and PlanError for a service from code.
        """
        problems = self.problems if placed is None else placed
        errors = [problem for problem in problems if problem.severity == "error"]
        if len(errors) == len(self.refused) == 1:
            only = self.refused[0]
            return type(only)(str(errors[0] if placed else only), kind=only.kind, id=only.id, problems=problems)
        if placed is not None:
            return ConfigError("\n".join(map(str, errors)), problems=problems)
        lines = "".join(f"\n  {problem}" for problem in errors)
        return PlanError(f"service '{self._service}' has {counted(len(errors), 'problem')}:{lines}", problems=problems)


def _of_environment(found: Problem, key: str) -> Problem:
    """
    Return a problem of a plugin's environment options as a problem of the service that names the plugin at *key*.

    Present options are checked before the services, so the problem is that an option is missing.
    """
    return attrs.evolve(found, key=key, message=f"needs options for the whole file: {found.key} {found.message}")


def _problem(found: Problem) -> Problem:
    """
    Return what a plugin's check yielded.

    Raises:
        TypeError: It is not a Problem.
    """
    if not isinstance(found, Problem) or not all(isinstance(part, str) for part in attrs.astuple(found)):
        raise TypeError(f"check gave {found!r:.100}, which is no Problem of texts")
    return found


def choose(finder: Finder, config: ServiceDeploymentConfig) -> Choices:
    """
    Find every plugin that *config* names. Problems are added to `finder.problems`.

    Raises:
        PluginError: A plugin's check failed.
    """
    finder.problems += cross_problems(attrs.asdict(config, recurse=False))
    target = finder.find("target", config.target, "target")
    strategy = finder.find("threading strategy", config.threading_strategy, "threading_strategy")
    capabilities: frozenset[str] = frozenset() if target is None else target.registration.capabilities
    default_balancer = "least_loaded" if "in_process" in capabilities else "power_of_two"
    balancer = None
    balances = config.load_balancing and config.most_replicas > 1
    if balances or config.load_balancer is not None:
        balancer = finder.find("load balancer", config.load_balancer or default_balancer, "load_balancer")
    if balancer is not None and not balances:
        balancer = None
        finder.problems.append(
            Problem(
                "W12",
                "load_balancer",
                "has no effect: there is nothing to balance",
                "set replicas to 2 or more" if config.load_balancing else "remove load_balancing: false",
                other="replicas" if config.load_balancing else "load_balancing",
            )
        )
    monitors = [
        finder.find("monitor", id, f"monitors.{index}")
        for index, id in enumerate(config.monitors)
        if id != "metrics" or config.enable_metrics
    ]
    policy = policy_of(config)
    autoscaler = None if policy is None else finder.find("autoscaler", policy, "autoscale.policy")
    watching = tuple(each for each in monitors if each)
    choices = Choices(target, strategy, balancer, watching, default_balancer, autoscaler)
    finder.problems += finder.unused_options(choices)
    finder.problems += _together(choices, config)
    finder.problems += _memory_of_its_own(choices, config)
    finder.problems += _without_effect(choices, config)
    return choices


def _together(choices: Choices, config: ServiceDeploymentConfig) -> list[Problem]:
    """Return the problems of plugins that do not fit together, or do not fit `timeout_strength`."""
    target, strategy = choices.target, choices.strategy
    problems: list[Problem] = []
    if target is not None and config.timeout_strength == "kill" and "can_kill" not in target.registration.capabilities:
        problems.append(
            Problem(
                "E307",
                "timeout_strength",
                f"is 'kill', and target '{target.id}' cannot kill a replica",
                "use target 'process', or remove it",
                other="target",
            )
        )
    if (
        target is not None
        and strategy is not None
        and "in_callers_thread" in strategy.registration.capabilities
        and "in_process" not in target.registration.capabilities
    ):
        problems.append(
            Problem(
                "E306",
                "threading_strategy",
                f"is '{strategy.id}', which runs calls on their callers' threads: the replicas of target '{target.id}' "
                "are in other processes",
                "use threading_strategy 'single'",
                other="target",
            )
        )
    return problems


def _memory_of_its_own(choices: Choices, config: ServiceDeploymentConfig) -> list[Problem]:
    """Return the problem of a memory limit for one replica if all replicas share this process."""
    target = choices.target
    if target is None or "in_process" not in target.registration.capabilities:
        return []
    if (config.recycle or {}).get("max_memory_mb") is None:
        return []
    return [
        Problem(
            "E411",
            "recycle.max_memory_mb",
            f"on target '{target.id}' all replicas share the memory of this process, and a new replica "
            "would not free it",
            "remove it, use max_calls or max_age, or name a target whose replicas have processes of their own",
            other="target",
        )
    ]


def _without_effect(choices: Choices, config: ServiceDeploymentConfig) -> list[Problem]:
    """Return a warning for each health-check field that is set but has no effect, so that none is silently ignored."""
    if choices.check_health:
        return []
    return [
        Problem("W12", name, f"has no effect: {NO_HEALTH_CHECK}", "add 'health' to monitors")
        for name in _HEALTH_FIELDS
        if name not in config.derived and getattr(config, name) != fields()[name].default
    ]


def check_config(
    service: str,
    config: ServiceDeploymentConfig,
    registry: Registry,
    environment: Mapping[str, Mapping[str, Any]] = NO_OPTIONS,
) -> list[Problem]:
    """
    Return the problems that a configuration's plugins find. Does not need the service's class.

    Args:
        service: Its name.
        config: Its configuration.
        registry: The plugins to choose from.
        environment: Options for the whole environment, by ID.

    Raises:
        PluginError: A plugin's check failed.
    """
    finder = Finder(service, config, registry, environment)
    choose(finder, config)
    return finder.problems
