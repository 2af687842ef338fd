"""A service in virtual time: `simulate`, and the `Simulated` that it returns."""

from __future__ import annotations

import random as global_random
from random import Random
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_testing.load_simulation.calls import CallSource, call_class
from sage_deploy_testing.load_simulation.composed import composed, seeded, slots_of
from sage_deploy_testing.load_simulation.fleet import Fleet
from sage_deploy_testing.load_simulation.results.report import Report
from sage_deploy_testing.load_simulation.results.tally import Tally
from sage_deploy_testing.load_simulation.scaling import Scaling
from sage_deploy_testing.load_simulation.scenario.faults import Fault, FaultKind
from sage_deploy_testing.load_simulation.scenario.loads import Keys, Load, Phase
from sage_deploy_testing.load_simulation.scenario.times import Time, constant, time_of
from sage_deploy_testing.load_simulation.timeline import Timeline
from sage_deploy_testing.load_simulation.waiting import Waiting
from sage_plugins.config.nested_keys import Policies, policies_of
from sage_plugins.deployment.balancing import create_balancer
from sage_plugins.errors import text_of
from sage_plugins.event_kinds import EventKind
from sage_plugins.resilience.restarts import Restarts
from sage_plugins.routing.guarding.guards import Guards
from sage_plugins.routing.guarding.unguarded import UNGUARDED
from sage_plugins.routing.router_choice import router_class, when_full
from sage_plugins.texts import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from sage_deploy_testing.load_simulation.composed import Config
    from sage_plugins.planning.composition import Composition
    from sage_plugins.plugins.registry import Registry
    from sage_plugins.routing.router import Router
    from sage_plugins.values import MethodPlan

__all__ = ["Simulated", "simulate"]

#: Slices of time in a report.
_SLICES: Final = 120


def simulate(  # noqa: PLR0913 - all but the first have a default
    config: Config,
    *,
    seed: int = 0,
    service: str | None = None,
    service_class: type | None = None,
    nodes: int = 1,
    slots: int | None = None,
    startup: Time | float = 1.0,
    settle: float = 60.0,
    trace: bool = False,
    registry: Registry | None = None,
) -> Simulated:
    """
    Prepare to run a service in virtual time, with its real router, balancer, guards, supervisor and autoscaler.

    Example:
        ```python
        with simulate({"replicas": 4, "queue_size": 100}, seed=7) as sim:
            sim.time("get", lognormal(median=0.01, sigma=1))
            sim.load(rate=200, until=60, method="get")
            sim.fault("crash", at=20)
            report = sim.run()
        assert report.latency.p99 < 0.5
        ```

    Args:
        config: Its configuration: a `ServiceDeploymentConfig`, a mapping with the keys of a file's entry, or the path
            of a deployment file.
        seed: Seed of everything random. The same simulation with the same seed has the same events.
        service: Its name. Needed to choose one from a file with several services.
        service_class: Its class, which declares its methods and the arguments that are keys. It is not instantiated. By
            default, the service has the methods that `time` and the configuration name.
        nodes: Number of nodes. Each replica goes to the node with the fewest.
        slots: Number of calls that one replica runs at once. None for the value of the strategy and its limits.
        startup: Start time of a replica, in seconds or as a distribution. The first replicas are ready at once.
        settle: Seconds that calls have to end after the last call.
        trace: Whether the report has a line for each call that arrives, starts or ends.
        registry: The plugins to choose from. None for the installed ones.

    Raises:
        ValueError: A number is out of range.
    """
    if nodes < 1 or (slots is not None and slots < 1):
        raise ValueError(f"nodes and slots must be 1 or more, got {nodes!r} and {slots!r}")
    if not settle >= 0:
        raise ValueError(f"settle must be 0 seconds or more, got {settle!r}")

    def make(methods: Sequence[str]) -> Composition:
        return composed(config, service, service_class, methods, registry)

    return Simulated(make, seed, nodes=nodes, slots=slots, startup=time_of(startup), settle=settle, trace=trace)


class Simulated:
    """A service to simulate. A context manager. For one thread and for one `run`."""

    def __init__(  # noqa: PLR0913 - as `simulate`
        self,
        compose: Callable[[Sequence[str]], Composition],
        seed: int,
        *,
        nodes: int,
        slots: int | None,
        startup: Time,
        settle: float,
        trace: bool,
    ) -> None:
        """Prepare; the arguments are as for `simulate`."""
        self._compose = compose
        self._seed = seed
        self._nodes = nodes
        self._slots = slots
        self._startup = startup
        self._settle = settle
        self._trace = trace
        self._times: dict[str, Time] = {}
        self._loads: list[Load] = []
        self._faults: list[Fault] = []
        self._router: Router | None = None

    # -- the scenario --------------------------------------------------------------------------------------------------

    def time(self, method: str, seconds: Time | float | Callable[[Random], float]) -> None:
        """
        Set how long *method* takes.

        Args:
            method: The method's name, or `"*"` for all methods without their own time.
            seconds: Seconds, `constant`, `exponential`, `lognormal` or `recorded`, or a function that takes a
                `random.Random` and returns seconds. For a batched method, the time of one batch.

        Raises:
            TypeError, ValueError: It is not a duration.
        """
        self._times[method] = time_of(seconds)

    def load(  # noqa: PLR0913 - all but the rate have a default
        self,
        *,
        rate: float = 0.0,
        until: float = 0.0,
        to: float | None = None,
        phases: Sequence[Phase] = (),
        method: str | None = None,
        keys: Keys | None = None,
        priority: int = 0,
    ) -> None:
        """
        Add calls: a Poisson process of independent callers that do not wait for each other.

        Several loads run at the same time.

        Args:
            rate: Calls a second.
            until: Seconds from the start to the last call.
            to: Calls a second at the end, if the rate changes linearly. None for a constant rate.
            phases: Phases, in turn, instead of `rate`, `until` and `to`.
            method: Its name. None for the only method with a time.
            keys: `uniform(number)` or `zipf(number, exponent)`. None for calls without keys.
            priority: Priority of the calls, as in `with_options`.

        Raises:
            ValueError: It is not a load.
        """
        given = tuple(phases) or (Phase(rate, rate if to is None else to, until),)
        if method is None:
            if len(self._times) != 1 or "*" in self._times:
                raise ValueError(f"say which method is called, method=...; {_given(self._times)}")
            (method,) = self._times
        self._loads.append(Load(method, given, keys, priority))

    def fault(self, kind: str | FaultKind | Fault, **what: Any) -> None:
        """
        Add a fault.

        Args:
            kind: `"crash"`, `"slow"`, `"hang"`, `"node"` (loss of a node) or `"drop"` (loss of answers), or a whole
                `Fault`.
            what: The other attributes of `Fault`: `at`, `seconds`, `replica`, `node`, `factor`, `share`.

        Raises:
            ValueError, TypeError: No such fault.
        """
        if isinstance(kind, Fault):
            self._faults.append(kind)
            return
        try:
            known = FaultKind(kind)
        except ValueError:
            raise ValueError(f"there is no fault {kind!r}; there are {', '.join(FaultKind)}") from None
        self._faults.append(Fault(kind=known, **what))

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self) -> Report:
        """
        Run the simulation, and return the report.

        It seeds the module `random`, which plugins may use, and restores it afterwards.

        Raises:
            ValueError: There is no load, a method has no time or does not exist, or a fault names a node that does not
                exist or begins after the load.
            RuntimeError: It has already run.
            ConfigError, PlanError, UnknownPluginError, PluginError: The service cannot be composed.
        """
        if self._router is not None:
            raise RuntimeError("a simulation runs once; make another one")
        if not self._loads:
            raise ValueError("no call comes: say `load(rate=..., until=..., method=...)` first")
        before = global_random.getstate()
        global_random.seed(self._seed)
        try:
            return self._run()
        finally:
            global_random.setstate(before)

    def _random(self, purpose: str) -> Random:
        """Return a random source for one purpose. Draws for one purpose do not affect the others."""
        return Random(f"{self._seed} {purpose}")  # noqa: S311 - it keeps no secret

    def _run(self) -> Report:
        named = [*(name for name in self._times if name != "*"), *(load.method for load in self._loads)]
        composition = self._compose(tuple(dict.fromkeys(named)))
        plans = {plan.name: plan for plan in composition.methods}
        seconds = max(load.seconds for load in self._loads)
        self._check(named, plans, seconds)
        timeline = Timeline()
        tally = Tally(timeline, seconds / _SLICES, trace=self._trace)
        balancer, observe = create_balancer(seeded(composition.balancer, self._seed), composition.where)
        router = self._router = self._make_router(composition, timeline, tally)
        config = composition.config
        slots = self._slots or slots_of(composition)
        checks = any(choice.id == "health" for choice in composition.monitors)
        fleet = Fleet(
            timeline,
            router,
            tally,
            slots=slots,
            nodes=self._nodes,
            startup=self._startup.drawn_by(self._random("startup")),
            draws=[self._draw(plan) for plan in composition.methods],
            restarts=Restarts(self._random("restarts")),
            random=self._random("faults"),
            replaces_hung_after=config.failure_threshold * config.health_check_interval
            if checks and "replaces_unhealthy" in composition.target.registration.capabilities
            else None,
        )
        fleet.begin(config.first_replicas)
        balances = False

        def balance() -> None:
            nonlocal balances
            if composition.balancer is not None:
                if not balances:
                    router.set_balancer(balancer, composition.key_of, observe)
            elif not balances:
                choice, key_of = composition.choose_balancer(None, None)
                made, observes = create_balancer(seeded(choice, self._seed), composition.where)
                router.set_balancer(made, key_of, observes)
            balances = True

        if composition.balancer is not None:
            balance()  # now, and not before: without a balancer, many replicas are added faster
        scaling = None
        if composition.autoscaler is not None:
            scaling = Scaling(composition, timeline, router, fleet, tally, balance)
            scaling.start()
        self._make_sources(timeline, router, tally, plans, config.queue_timeout)
        for fault in self._faults:
            timeline.at(fault.at, fleet.suffer, fault)
        series = tally.series

        def look(_: None) -> None:
            ready = fleet.ready
            running = sum(lane.inflight for lane in ready)
            wanted = len(fleet.places)
            series.look(len(ready), wanted, router.waiting + router.parked, running)
            if len(series.moments) <= _SLICES:
                timeline.at(seconds * len(series.moments) / _SLICES, look, None)

        tally.first_replicas = len(fleet.places)
        timeline.at(series.step, look, None)
        timeline.run_until(seconds)
        timeline.run_while(lambda: tally.open > 0, seconds + self._settle)
        return Report.of(
            composition,
            tally,
            router.retries,
            seed=self._seed,
            seconds=seconds,
            slots=slots,
            loads=self._loads,
            times=self._times,
            faults=self._faults,
            ended_at=timeline.now,
        )

    def _make_router(self, composition: Composition, timeline: Timeline, tally: Tally) -> Router:
        """Make the router as `ServiceTask` does, without a balancer at first."""
        config, policies = composition.config, policies_of(composition.config)
        guards = UNGUARDED if policies == Policies() else Guards(policies, tally.tell, random=self._random("retries"))

        def refused(_method: int, reason: str) -> None:
            tally.refused[reason] += 1

        return router_class(composition.methods)(
            composition.name,
            timeline,
            queue_size=config.queue_size,
            **when_full(config.overload),
            guards=guards,
            count=lambda *_: None,
            refused=refused,
            on_balancer_error=lambda error: tally.tell(EventKind.BALANCER_FENCED, text_of(error)),
            aside=lambda do: do(),
            overloaded=lambda why: tally.tell(EventKind.OVERLOADED, why),
        )

    def _draw(self, plan: MethodPlan) -> Callable[[], float]:
        time = self._times.get(plan.name) or self._times.get("*") or constant(0)
        return time.drawn_by(self._random(f"time {plan.name}"))

    def _check(self, named: Sequence[str], plans: dict[str, MethodPlan], seconds: float) -> None:
        for name in named:
            if name not in plans:
                near = did_you_mean(name, plans)
                hint = f"; did you mean {near!r}?" if near else f"; it has {', '.join(plans) or 'none'}"
                raise ValueError(f"the service has no method {name!r}{hint}")
        for load in self._loads:
            if load.method not in self._times and "*" not in self._times:
                raise ValueError(f"say how long {load.method!r} takes: time({load.method!r}, lognormal(0.01, 1))")
        for fault in self._faults:
            if fault.node is not None and fault.node >= self._nodes:
                raise ValueError(f"'{fault}': there are {self._nodes} nodes, from 0 on; give `nodes`")
            if fault.at >= seconds:
                raise ValueError(f"'{fault}': calls come only until {seconds:g} s; let it begin earlier")

    def _make_sources(
        self, timeline: Timeline, router: Router, tally: Tally, plans: dict[str, MethodPlan], limit: float | None
    ) -> None:
        kind = call_class(tally)
        waiting = {load.method: Waiting(timeline) for load in self._loads}
        for number, load in enumerate(self._loads):
            purpose = f"{number} {load.method}"
            CallSource(
                timeline,
                router,
                tally,
                plans[load.method],
                limit,
                load.arrivals(self._random(f"arrivals {purpose}")),
                load.options_drawn_by(self._random(f"keys {purpose}")),
                kind,
                waiting[load.method],
            ).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._compose = _over
        if self._router is not None:
            self._router.end()


def _over(_: Sequence[str]) -> Composition:
    raise RuntimeError("the simulation is over; make another one")


def _given(times: dict[str, Time]) -> str:
    names = [name for name in times if name != "*"]
    return f"times were given of {', '.join(names)}" if names else "call `time` first, or name it"
