"""Runs services under accidents: deploys and calls them, waits until they recover, closes them, and looks for leaks."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import attrs

from sage_deploy_testing.chaos.actions import ACTIONS, World
from sage_deploy_testing.chaos.history import VERSION, History, Service
from sage_deploy_testing.chaos.leaks import Leaks
from sage_deploy_testing.chaos.load import SHAPES, Load, Served
from sage_deploy_testing.chaos.nemesis import Nemesis, Pairs
from sage_deploy_testing.chaos.probe import Probe
from sage_deploy_testing.chaos.run_log import RunLog, machine
from sage_plugins.config.nested_keys import retry_policy
from sage_plugins.environment.environment import Environment

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from random import Random

    from sage_deploy_testing.chaos.history import Event
    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.plugins.registry import Registry

__all__ = ["Setting", "run"]

#: The number of consecutive calls that a service must answer to count as back.
_WHOLE: Final = 20
_CALL_S: Final = 10.0
#: Seconds for changes to end, and between two looks.
_GRACE_S: Final = 30.0
_LOOK_S: Final = 0.2


class Setting(NamedTuple):
    """
    The settings of a run.

    Attributes:
        services: The configuration of each service, by name. A probe replaces its class.
        seconds: Seconds of accidents. With `pairs`, seconds for each pair.
        rate: Calls a second, of all callers together.
        seed: Seed of callers and accidents. It does not determine when things happen, because threads run in any order.
        actions: The actions of `actions.ACTIONS` that the nemesis may choose.
        every: Mean seconds between two accidents.
        kill_every: Minimum seconds between the ends of two replicas of a service.
        most: The most calls in flight at once.
        slack: Seconds after its deadline by which a call must have ended.
        recovery: Seconds after the last accident by which a service must be back.
        shapes: The kinds of methods to call, from `load.SHAPES`.
        options: Options of plugins for the whole environment, by ID.
        pairs: Whether each pair of actions happens once to each service, instead of random ones. `every` and
            `kill_every` then have no effect.
        source: Where the services come from, for the verdict.
    """

    services: Mapping[str, ServiceDeploymentConfig]
    seconds: float
    rate: float = 100.0
    seed: int = 0
    actions: Collection[str] = tuple(ACTIONS)
    every: float = 1.0
    kill_every: float = 5.0
    most: int = 256
    slack: float = 5.0
    recovery: float = 90.0
    shapes: tuple[str, ...] = SHAPES
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    pairs: bool = False
    source: str = ""


def run(
    setting: Setting,
    *,
    registry: Registry | None = None,
    kill_node: Callable[[Random], str] | None = None,
    over: threading.Event | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Event]:
    """
    Run the services, and return the history.

    Args:
        setting: What to do.
        registry: The plugins to choose from. By default the installed ones.
        kill_node: Ends a node of a test's cluster, and returns which.
        over: Ends the accidents early when it is set. The rest of the run is unchanged.
        progress: Called with a text about each step.

    Returns:
        The events, see `history`. `checker.check` and `verdict.Verdict.of` interpret them.

    Raises:
        DeployError: The services did not start, so there was no run.
        PlanError, ConfigError, PluginError: The services cannot be deployed.
    """
    leaks, history = Leaks(), History()
    with tempfile.TemporaryDirectory(prefix="sage-chaos-") as folder:
        run_log = RunLog(Path(folder) / "run_log")
        over = over or threading.Event()
        _Run(setting, history, run_log, registry=registry, over=over, progress=progress).go(kill_node)
        ran, replicas = run_log.ran(), run_log.replicas()
    history.add_run_log(ran)
    progress("looking for what is left ...")
    left, unchecked = leaks.left(replicas)
    for text in left:
        history.note("leak", text=text)
    for text in unchecked:
        history.note("unchecked", text=text)
    if any(each["event"] == "ok" and not each["seen"] for each in history.events):
        history.note("unchecked", text="run twice, of calls that replicas on other machines have answered")
    history.note("end")
    return history.events


class _Run:
    """One run, step by step."""

    def __init__(  # noqa: PLR0913 - what it consists of
        self,
        setting: Setting,
        history: History,
        run_log: RunLog,
        *,
        registry: Registry | None,
        over: threading.Event,
        progress: Callable[[str], None],
    ) -> None:
        self._setting = setting
        self._history = history
        self._run_log = run_log
        self._over = over
        self._progress = progress
        self._configs = {name: _for_probe(config) for name, config in setting.services.items()}
        self._env = Environment("chaos", registry=registry, on_event=self._told, options=setting.options)
        for name, config in self._configs.items():
            self._register(name, config)

    def _register(self, name: str, config: ServiceDeploymentConfig) -> None:
        deployer = (machine(), os.getpid())
        self._env.register_service_with_config(
            name, Probe, self._run_log.path, self._run_log.token, deployer, deployment_config=config
        )

    def _told(self, event: Any) -> None:
        self._history.note(
            "told", kind=event.kind, service=event.service, replica=event.replica, reason=event.reason[:300]
        )

    def go(self, kill_node: Callable[[Random], str] | None) -> None:
        """Run from the deployment until everything is closed."""
        setting, history = self._setting, self._history
        with self._env:
            self._progress("starting ...")
            self._env.deploy()
            timeouts = {name: config.timeout for name, config in self._configs.items()}
            load = Load(
                history,
                {name: Served(self._env.service(name), timeouts[name]) for name in self._configs},
                rate=setting.rate,
                most=setting.most,
                seed=setting.seed,
                patience=setting.slack + max(timeout or 0.0 for timeout in timeouts.values()),
                shapes=setting.shapes,
            )
            world = World(self._env, self._configs, load, self._run_log, self._register, self._over, kill_node)
            nemesis = (Pairs if setting.pairs else Nemesis)(history, world, setting)
            history.events.insert(0, self._start(nemesis.seconds))
            load.start()
            nemesis.start()
            self._progress(f"accidents happen for {nemesis.seconds:g} s from now on; Ctrl-C ends them")
            self._wait(nemesis)
            self._progress("no more accidents; waiting until the services are back ...")
            self._over.set()
            startup = max(config.startup_timeout for config in self._configs.values())
            nemesis.stop(_GRACE_S + 4 * startup)
            if nemesis.has_changed:
                self._restore()
            began = time.monotonic()
            for name in self._configs:
                self._watch(load, name, began)
            load.stop()
            self._progress("closing ...")

    def _start(self, seconds: float) -> Event:
        setting = self._setting
        return {
            "t": 0.0,
            "event": "start",
            "version": VERSION,
            "seed": setting.seed,
            "seconds": seconds,
            "slack": setting.slack,
            "source": setting.source,
            "services": {name: self._facts(name, config)._asdict() for name, config in self._configs.items()},
        }

    def _facts(self, name: str, config: ServiceDeploymentConfig) -> Service:
        replicas = self._env.overview()[name]["replicas"]
        retry = retry_policy(config.retry, failover=config.failover_enabled)
        attempts = 1 if retry is None else retry.max_attempts
        hedge = getattr(config, "hedge", None)
        return Service(
            target=config.target,
            strategy=config.threading_strategy,
            replicas=len(replicas),
            # Scaled by load, a replica may get more threads later.
            slots=0 if config.autoscale else max(each["slots"] for each in replicas),
            attempts=attempts + (hedge is not None),
            batch=config.batch_size or 1,
        )

    def _wait(self, nemesis: Nemesis) -> None:
        last = 0
        while (remains := nemesis.remaining) > 0 and not self._over.wait(min(remains, 10.0)):
            calls = self._history.calls
            self._progress(f"{max(0.0, nemesis.remaining):.0f} s to go, {calls - last} calls more")
            last = calls
        if remains > 0:
            self._history.note("interrupted")

    def _restore(self) -> None:
        for name, config in self._configs.items():
            self._register(name, config)
        try:
            self._env.apply()
        except Exception as error:  # noqa: BLE001 - the history gets any error
            self._history.done("apply", "", "the configuration of the start", error)

    def _watch(self, load: Load, name: str, began: float) -> None:
        """Wait until a service has all its replicas and answers, or until `Setting.recovery` is over."""
        until, pause = began + self._setting.recovery, threading.Event()
        answered = 0
        while answered < _WHOLE:
            if time.monotonic() >= until:
                health = self._env.overview()[name]["health"]
                text = f"{health['ready']} of {health['replicas']} replicas are ready, {answered} calls were answered"
                self._history.note("not_whole", service=name, text=f"{text} within {self._setting.recovery:g} s")
                return
            if self._is_complete(name) and load.answers(name, _CALL_S):
                answered += 1
            else:
                answered = 0
                pause.wait(_LOOK_S)
        self._history.note("whole", service=name, after=round(time.monotonic() - began, 3))

    def _is_complete(self, name: str) -> bool:
        config, health = self._configs[name], self._env.overview()[name]["health"]
        wanted = config.replicas if config.autoscale is None else 0
        return bool(health["ready"] == health["replicas"] and health["ready"] >= wanted)


def _for_probe(config: ServiceDeploymentConfig) -> ServiceDeploymentConfig:
    """Return the configuration without the settings of single methods: the probe has other methods."""
    return attrs.evolve(config, methods={}) if config.methods else config
