"""Composes a service: asks its plugins and decides everything about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from sage_plugins.errors import PluginError, text_of
from sage_plugins.planning.choices import NO_HEALTH_CHECK, Finder, choose
from sage_plugins.planning.environment_options import NO_OPTIONS
from sage_plugins.service.constructor import init_problems
from sage_plugins.service.factory import ServiceFactory, own_factory
from sage_plugins.service.methods import method_plans
from sage_plugins.texts import one_line
from sage_plugins.values import GENERATORS, Choice, Limits, MethodKind, MethodPlan, Problem, ReplicaSpec, Where

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.planning.choices import Choices
    from sage_plugins.plugins.registry import Registry
    from sage_plugins.service.call_key import KeyOf

__all__ = ["Composition", "compose"]


class Composition(NamedTuple):
    """
    A service with every decision made. `plan` shows it, and `ServiceTask` starts it.

    Attributes:
        name: The service's name.
        factory: Builds its instances.
        config: Its configuration.
        target: The target.
        strategy: The threading strategy.
        balancer: The load balancer; None with one replica or without balancing.
        monitors: The monitors.
        methods: The served methods.
        limits: How many threads and coroutines the strategy may use.
        choose_balancer: `choose_balancer(id, options)` returns another balancer and its `key_of`, for a running
            service. None for *id* or *options*: as configured, or the default. Raises if the balancer has problems.
        key_of: Computes the key of a call from its arguments; None if the balancer names no argument as the key.
        environment: Name of the service's environment; None if it has none.
        autoscaler: The autoscaler; None if the number of replicas is fixed.
    """

    name: str
    factory: Any
    config: ServiceDeploymentConfig
    target: Choice
    strategy: Choice
    balancer: Choice | None
    monitors: tuple[Choice, ...]
    methods: tuple[MethodPlan, ...]
    limits: Limits
    choose_balancer: Callable[[str | None, Mapping[str, Any] | None], tuple[Choice, KeyOf | None]]
    key_of: KeyOf | None = None
    environment: str | None = None
    autoscaler: Choice | None = None

    @property
    def where(self) -> Where:
        """The names of the service and its environment, for its balancer."""
        return Where(self.name, self.environment)

    def spec(self, index: int, generation: int = 0) -> ReplicaSpec:
        """Return the spec of the replica at *index*; *generation* is the number of replicas there before it."""
        return ReplicaSpec(
            service=self.name,
            index=index,
            factory=self.factory,
            strategy=self.strategy,
            limits=self.limits,
            methods=self.methods,
            monitors=self.monitors,
            config=self.config,
            generation=generation,
        )


def compose(  # noqa: PLR0913 - a service and all that it is composed from
    factory: Any,
    config: ServiceDeploymentConfig,
    registry: Registry,
    environment: Mapping[str, Mapping[str, Any]] = NO_OPTIONS,
    where: Where | None = None,
    *,
    in_code: bool = True,
) -> tuple[Composition | None, Finder]:
    """
    Ask the plugins that *config* names, and decide everything about a service; starts nothing.

    Args:
        factory: The service's factory: `service_name`, `service_class`, `create_service(ctx)`.
        config: Its configuration.
        registry: The plugins to choose from.
        environment: Options for the whole environment, by ID.
        where: The names of the service and its environment; None for the factory's name and no environment. The
            factory may have another name.
        in_code: True if the class was registered in code, False if in a file.

    Returns:
        The composition (None if there are errors) and the finder. The finder has all errors and warnings in `problems`;
        its `refusal` is the error to raise if there is no composition.

    Raises:
        PluginError: A plugin breaks its contract.
    """
    factory = own_factory(factory)
    where = where or Where(factory.service_name)
    name, cls = where.service, factory.service_class
    finder = Finder(name, config, registry, environment)
    choices = choose(finder, config)
    try:
        if isinstance(factory, ServiceFactory):  # other factories call the constructor in their own way
            finder.problems.extend(init_problems(cls, factory.service_args, factory.service_kwargs, in_code=in_code))
        methods = _methods(cls, choices, finder)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a metaclass may raise anything when its class is inspected
        path = ":".join(
            type.__getattribute__(cls, name) for name in ("__module__", "__qualname__")
        )  # bypasses the metaclass, which may raise again
        message = f"{path!r} cannot be inspected: {one_line(text_of(error))}"
        finder.problems.append(Problem("E703", "class", message, "correct its metaclass"))
        return None, finder
    key_of = None if choices.balancer is None else _key_of(choices.balancer, where, cls, methods, finder)
    if choices.target is None or choices.strategy is None or finder.errors:
        return None, finder

    def choose_balancer(id: str | None, options: Mapping[str, Any] | None) -> tuple[Choice, KeyOf | None]:
        chosen = id or config.load_balancer or choices.default_balancer
        changed = config if options is None else attrs.evolve(config, options={**config.options, chosen: options})
        finder = Finder(name, changed, registry, environment)
        choice = finder.find("load balancer", chosen, "load_balancer")
        reads = None if choice is None else _key_of(choice, where, cls, methods, finder)
        if choice is None or finder.errors:
            raise finder.refusal()
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
        environment=where.environment,
        autoscaler=choices.autoscaler,
    )
    return composition, finder


def _methods(cls: type, choices: Choices, finder: Finder) -> tuple[MethodPlan, ...]:
    """Return the served methods of a class; add problems to the finder."""
    problems = finder.problems
    if not callable(getattr(cls, "reconfigure", None)) and finder.config.user_config is not None:
        message = f"has no effect: {cls.__qualname__} has no reconfigure(user_config)"
        problems.append(Problem("W12", "user_config", message, "remove it, or add the method"))
    if not choices.check_health:
        problems.extend(
            Problem("W12", "class", f"its {hook}() is not called: {NO_HEALTH_CHECK}", "add 'health' to monitors")
            for hook in ("check_health", "check_ready")
            if callable(getattr(cls, hook, None))
        )
    methods, wrong = method_plans(cls, finder.config)
    problems.extend(wrong)
    if finder.config.hedge is not None:
        problems.extend(_not_hedged(finder.config, choices.strategy, cls, methods))
    problems.extend(_no_coroutines(choices.strategy, cls, methods))
    return methods


def _key_of(
    balancer: Choice,
    where: Where,
    cls: type,
    methods: tuple[MethodPlan, ...],
    finder: Finder,
) -> KeyOf | None:
    """Return the function that reads the argument that *balancer* names as the key; None if it names none."""
    if "names_key" not in balancer.registration.capabilities:
        return None
    if balancer.options is None and balancer.registration.options is not None:  # its options are wrong
        return None
    try:
        argument = balancer.create(where).key_argument
    except Exception as error:
        msg = f"load balancer '{balancer.id}' from {balancer.source} cannot be made: {text_of(error)}"
        raise PluginError(msg) from error
    if argument is None:
        return None
    from sage_plugins.service.call_key import compose_key_of, missing_argument

    found = compose_key_of(argument, cls, methods)
    if found is None:
        # The core does not know the plugin's options, so it looks for the one whose value is the name.
        given = finder.config.options.get(balancer.id, {})
        names = [f"options.{balancer.id}.{option}" for option, value in given.items() if value == argument]
        finder.problems.append(
            missing_argument(argument, cls, methods, key=names[0] if names else f"options.{balancer.id}")
        )
    return found


def _not_hedged(
    config: ServiceDeploymentConfig, strategy: Choice | None, cls: type, methods: Sequence[MethodPlan]
) -> list[Problem]:
    """Return the problem if `hedge` is set and no call can get a second attempt."""
    most, number = config.replicas, "replicas"
    if config.autoscale is not None:
        most, number = config.autoscale.get("max", 2), "autoscale.max"
    if most < 2:  # noqa: PLR2004 - one for each attempt
        message = "needs a second replica, and the service has one"
        fix = f"set {number} to 2 or more, or remove hedge"
        return [Problem("E602", "hedge", message, fix, other=number)]
    if strategy is not None and "in_callers_thread" in strategy.registration.capabilities:
        message = f"has no effect under '{strategy.id}': the caller's thread runs the method, and cannot leave it"
        return [Problem("W12", "hedge", message, "remove it, or use another strategy", other="threading_strategy")]
    if any(method.idempotent and method.kind not in GENERATORS and method.batch is None for method in methods):
        return []
    message = f"applies to no method: {cls.__qualname__} has none that is idempotent and answered one by one"
    return [Problem("E601", "hedge", message, "set methods.<name>.idempotent: true, or remove hedge")]


def _no_coroutines(strategy: Choice | None, cls: type, methods: Sequence[MethodPlan]) -> list[Problem]:
    """Return a warning if the strategy has an event loop and the class has no coroutines."""
    is_loop = strategy is not None and "event_loop" in strategy.registration.capabilities
    sync = {MethodKind.SYNC, MethodKind.GENERATOR}
    if strategy is None or not is_loop or not methods or any(method.kind not in sync for method in methods):
        return []
    message = f"is '{strategy.id}', but {cls.__qualname__} has no coroutines: its methods run on helper threads"
    return [Problem("W01", "threading_strategy", message, "use threading_strategy 'pool'")]
