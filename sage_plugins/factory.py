"""From a factory and a configuration to a composition, and from that to a task: where the plugins are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_plugins.clock import SYSTEM
from sage_plugins.config import ServiceDeploymentConfig
from sage_plugins.config_rules import cross_problems
from sage_plugins.errors import PlanError, PluginError, ServiceNotFoundError
from sage_plugins.methods import method_plans
from sage_plugins.plugins import Registry
from sage_plugins.structure import structure
from sage_plugins.task import Composition, ServiceTask
from sage_plugins.values import Choice, Limits, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sage_plugins.clock import Clock
    from sage_plugins.keys import KeyOf
    from sage_plugins.service import ServiceContext
    from sage_plugins.values import MethodPlan

__all__ = ["NOT_YET", "ServiceTaskFactory", "compose"]

#: Fields that this version reads and checks but does not act on yet; set to something else than the default they are
#: reported, because nothing may be ignored in silence.
NOT_YET: Final = {
    "autoscale": "the number of replicas stays as it is",
    "retry": "calls are not retried",
    "update": "a changed configuration needs a new deployment",
    "user_config": "reconfigure() is not called",
    "spread": "there is one node, this process",
    "max_replicas_per_node": "there is one node, this process",
}


def compose(factory: Any, config: ServiceDeploymentConfig, registry: Registry) -> tuple[Composition, list[Problem]]:
    """
    Ask the plugins that *config* names and decide everything about a service; starts nothing.

    Args:
        factory: The service's factory: `service_name`, `service_class`, `create_service(ctx)`.
        config: Its configuration.
        registry: The plugins to choose from.

    Returns:
        The composition, and the warnings.

    Raises:
        UnknownPluginError: The configuration names an ID that no plugin has.
        PlanError: The plugins refuse the configuration; `problems` has every reason.
    """
    name = factory.service_name
    problems = cross_problems(attrs.asdict(config, recurse=False))
    target = _choose(registry, "target", config.target, config, name, problems)
    strategy = _choose(registry, "threading strategy", config.threading_strategy, config, name, problems)
    balancer = None
    default_balancer = "least_loaded" if "in_process" in target.registration.capabilities else "power_of_two"
    if config.load_balancing and config.replicas > 1:
        balancer = _choose(registry, "load balancer", config.load_balancer or default_balancer, config, name, problems)
    monitors = tuple(
        _choose(registry, "monitor", id, config, name, problems)
        for id in config.monitors
        if id != "metrics" or config.enable_metrics
    )
    chosen = {choice.id for choice in (target, strategy, balancer, *monitors) if choice is not None}
    problems.extend(
        Problem("W12", f"options.{id}", "has no effect: the service does not use that plugin", "remove them")
        for id in config.options
        if id not in chosen
    )
    if config.load_balancer is not None and balancer is None:
        registry.find("load balancer", config.load_balancer, service=name)
        problems.append(
            Problem("W12", "load_balancer", "has no effect: there is nothing to balance", "set load_balancing")
        )
    problems.extend(_not_yet(config))
    if callable(getattr(factory.service_class, "reconfigure", None)):
        problems.append(Problem("W13", "class", "its reconfigure() is not called in this version"))
    if not any("checks_health" in choice.registration.capabilities for choice in monitors):
        problems.extend(_unchecked(config, factory.service_class))
    methods, wrong = method_plans(factory.service_class, config)
    problems.extend(wrong)
    key_of = None if balancer is None else _key_of(balancer, factory.service_class, methods, config, problems)
    _refuse_errors(name, problems)

    def choose_balancer(id: str | None, options: Mapping[str, Any] | None) -> tuple[Choice, KeyOf | None]:
        chosen = id or config.load_balancer or default_balancer
        changed = config if options is None else attrs.evolve(config, options={**config.options, chosen: options})
        found: list[Problem] = []
        choice = _choose(registry, "load balancer", chosen, changed, name, found)
        reads = _key_of(choice, factory.service_class, methods, changed, found)
        _refuse_errors(name, found)
        return choice, reads

    composition = Composition(
        name=name,
        factory=factory,
        config=config,
        target=target,
        strategy=strategy,
        balancer=balancer,
        monitors=monitors,
        methods=methods,
        limits=Limits(
            threads=config.thread_count,
            max_threads=config.thread_pool_size or config.max_thread_count,
            max_concurrency=config.max_concurrency or (config.thread_count if config.thread_count > 1 else 100),
        ),
        choose_balancer=choose_balancer,
        key_of=key_of,
    )
    return composition, [problem for problem in problems if problem.severity == "warning"]


def _refuse_errors(service: str, problems: list[Problem]) -> None:
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        lines = "".join(f"\n  {problem}" for problem in errors)
        count = "1 problem" if len(errors) == 1 else f"{len(errors)} problems"
        raise PlanError(f"service '{service}' has {count}:{lines}", problems=problems)


def _choose(  # noqa: PLR0913, PLR0917 - private, and each is another thing
    registry: Registry,
    kind: str,
    id: str,
    config: ServiceDeploymentConfig,
    service: str,
    problems: list[Problem],
) -> Choice:
    """Look up *id*, read its options and have it check the configuration."""
    found = registry.find(kind, id, service=service)
    registration = found.registration
    given = config.options.get(id, {})
    options = None
    options_class = registration.options_class()
    if options_class is not None:
        options, wrong = structure(options_class, given, key=f"options.{id}")
        problems.extend(wrong)
    elif given:
        problems.append(Problem("E101", f"options.{id}", f"{kind} '{id}' has no options", "remove them"))
    if registration.check is not None and (options is not None or options_class is None):
        try:
            problems.extend(registration.check(config, options))
        except Exception as error:
            msg = (
                f"{kind} '{id}' from {found.plugin.source} failed to check service '{service}': "
                f"{type(error).__name__}: {error}"
            )
            raise PluginError(msg) from error
    return Choice(registration, options, found.plugin)


def _key_of(
    balancer: Choice,
    cls: type,
    methods: tuple[MethodPlan, ...],
    config: ServiceDeploymentConfig,
    problems: list[Problem],
) -> KeyOf | None:
    """What reads the argument that *balancer* names as the key of calls, if it names one."""
    if balancer.options is None and balancer.registration.options is not None:  # its options are wrong
        return None
    try:
        argument = getattr(balancer.create(), "key_argument", None)
    except Exception as error:
        msg = f"load balancer '{balancer.id}' from {balancer.source} cannot be made: {type(error).__name__}: {error}"
        raise PluginError(msg) from error
    if argument is None:
        return None
    from sage_plugins.keys import compose_key_of, missing_argument

    found = compose_key_of(argument, cls, methods)
    if found is None:
        # The core does not know the plugin's options, but one of them holds the name.
        given = config.options.get(balancer.id, {})
        names = [f"options.{balancer.id}.{option}" for option, value in given.items() if value == argument]
        problems.append(missing_argument(argument, cls, methods, key=names[0] if names else f"options.{balancer.id}"))
    return found


def _not_yet(config: ServiceDeploymentConfig) -> list[Problem]:
    defaults = ServiceDeploymentConfig()
    return [
        Problem("W13", name, f"has no effect in this version: {effect}")
        for name, effect in NOT_YET.items()
        if getattr(config, name) != getattr(defaults, name)
    ]


def _unchecked(config: ServiceDeploymentConfig, cls: type) -> list[Problem]:
    """What has no effect on a service whose health nobody checks."""
    defaults, why = ServiceDeploymentConfig(), "no monitor of the service checks health"
    fields = ("health_check_interval", "health_check_timeout", "failure_threshold", "success_threshold")
    fix = "add 'health' to monitors"
    return [
        *(
            Problem("W12", name, f"has no effect: {why}", fix)
            for name in fields
            if getattr(config, name) != getattr(defaults, name)
        ),
        *(
            Problem("W12", "class", f"its {hook}() is not called: {why}", fix)
            for hook in ("check_health", "check_ready")
            if callable(getattr(cls, hook, None))
        ),
    ]


class ServiceTaskFactory:
    """
    Makes the task of one service.

    Attributes:
        service_factory: Builds the instances.
        service_name: Name of the service.
        deployment_config: How it is deployed.
        remote: Whether it was asked to run on a cluster.
    """

    def __init__(  # noqa: PLR0913 - three of SAGE's, three of ours
        self,
        service_factory: Any,
        deployment_config: ServiceDeploymentConfig | None = None,
        remote: bool = False,  # noqa: FBT001, FBT002 - as in SAGE
        *,
        registry: Registry | None = None,
        find_service: Callable[[str], Any] | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        """
        Remember what to make.

        Args:
            service_factory: `ServiceFactory`, or anything with `service_name`, `service_class` and
                `create_service(ctx)`.
            deployment_config: Defaults to one replica, one thread; on any node of the cluster if *remote*.
            remote: Without a configuration: run on any node of the cluster.
            registry: The plugins to choose from; the installed ones by default.
            find_service: Gives the instances handles to other services; by default there are none.
            clock: For deadlines.
        """
        self.service_factory = service_factory
        self.service_name = service_factory.service_name
        self.remote = remote
        target = "remote_any" if remote else "local"
        self.deployment_config = deployment_config or ServiceDeploymentConfig(target=target)
        self._registry = registry
        self._find_service = find_service or self._no_other
        self._clock = clock

    def create_service_task(self, ctx: ServiceContext | None = None) -> ServiceTask:
        """
        A task for the service; nothing is built or started yet.

        Args:
            ctx: Whose `service(name)` finds other services for the instances; each replica gets a context of its own.

        Raises:
            UnknownPluginError, PlanError: As for `compose`.
        """
        registry = self._registry or Registry.discover()
        composition, _ = compose(self.service_factory, self.deployment_config, registry)
        return ServiceTask(composition, self._find_service if ctx is None else ctx.service, self._clock)

    def _no_other(self, name: str) -> Any:
        msg = f"service {self.service_name!r} was made outside any environment, so it cannot find service {name!r}"
        raise ServiceNotFoundError(msg, service=name)
