"""From a factory and a configuration to a composition, and from that to a task: where the plugins are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_plugins.choices import Finder, choose, refuse_errors
from sage_plugins.clock import SYSTEM
from sage_plugins.config import ServiceDeploymentConfig
from sage_plugins.errors import PluginError, ServiceNotFoundError
from sage_plugins.methods import method_plans
from sage_plugins.plugins import Registry
from sage_plugins.task import Composition, ServiceTask
from sage_plugins.values import Limits, MethodKind, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_plugins.clock import Clock
    from sage_plugins.keys import KeyOf
    from sage_plugins.service import ServiceContext
    from sage_plugins.values import Choice, MethodPlan

__all__ = ["NOT_YET", "ServiceTaskFactory", "compose"]

#: Fields that this version reads and checks but does not act on yet; set to something else than the default they are
#: reported, because nothing may be ignored in silence.
NOT_YET: Final = {
    "autoscale": "the number of replicas stays as it is",
    "retry": "calls are not retried",
    "update": "a changed service is started anew as a whole, and the old one stops then",
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
    name, cls = factory.service_name, factory.service_class
    finder = Finder(name, config, registry)
    choices = choose(finder, config)
    problems = finder.problems
    problems.extend(_not_yet(config))
    if callable(getattr(cls, "reconfigure", None)):
        problems.append(Problem("W13", "class", "its reconfigure() is not called in this version"))
    if not any("checks_health" in choice.registration.capabilities for choice in choices.monitors):
        problems.extend(_unchecked(config, cls))
    methods, wrong = method_plans(cls, config)
    problems.extend(wrong)
    problems.extend(_no_coroutines(choices.strategy, cls, methods))
    key_of = None if choices.balancer is None else _key_of(choices.balancer, cls, methods, config, problems)
    refuse_errors(name, problems, finder.unknown)
    assert choices.target is not None  # noqa: S101 - otherwise there is an error
    assert choices.strategy is not None  # noqa: S101 - as above

    def choose_balancer(id: str | None, options: Mapping[str, Any] | None) -> tuple[Choice, KeyOf | None]:
        chosen = id or config.load_balancer or choices.default_balancer
        changed = config if options is None else attrs.evolve(config, options={**config.options, chosen: options})
        finder = Finder(name, changed, registry)
        choice = finder.find("load balancer", chosen, "load_balancer")
        reads = None if choice is None else _key_of(choice, cls, methods, changed, finder.problems)
        refuse_errors(name, finder.problems, finder.unknown)
        assert choice is not None  # noqa: S101 - otherwise there is an error
        return choice, reads

    composition = Composition(
        name=name,
        factory=factory,
        config=config,
        target=choices.target,
        strategy=choices.strategy,
        balancer=choices.balancer,
        monitors=choices.monitors,
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


def _no_coroutines(strategy: Choice | None, cls: type, methods: Sequence[MethodPlan]) -> list[Problem]:
    """What is to be said of a class without coroutines on an event loop."""
    is_loop = strategy is not None and "event_loop" in strategy.registration.capabilities
    sync = {MethodKind.SYNC, MethodKind.GENERATOR}
    if strategy is None or not is_loop or not methods or any(method.kind not in sync for method in methods):
        return []
    message = f"is '{strategy.id}', but {cls.__qualname__} has no coroutines: its methods run on helper threads"
    return [Problem("W01", "threading_strategy", message, "use threading_strategy 'pool'")]


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
