"""Deploys, changes and closes the services of one environment together."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from sage_plugins.call.current import current_call
from sage_plugins.clock import checked_seconds
from sage_plugins.errors import (
    ConfigError,
    DeployError,
)
from sage_plugins.threads import future_of, start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_plugins.deployment.task import ServiceTask
    from sage_plugins.environment.services import Services
    from sage_plugins.planning.plan import DeploymentPlan, ServicePlan
    from sage_plugins.values import ReplicaSpec

from sage_plugins.environment.services import NOT_RUNNING

__all__ = ["Deploying"]


class Deploying:
    """Starts all services or none, applies changes one by one, and closes. Thread-safe."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._applying = threading.Lock()  # held while `apply` runs

    def deploy(self, timeout: float | None, on_ready: Callable[[], None]) -> None:
        """As `Environment.deploy`, then call *on_ready*. If that raises, the services started here are stopped."""
        if timeout is not None:
            timeout = checked_seconds(timeout, "timeout", "; `deploy` starts all services that are registered")
        names = self._services.catalogue.names
        with self._services.lock:
            for name in names:
                self._services.check_open(name)
                if name in self._services.tasks and self._services.tasks[name].state == "stopped":
                    self._services.remove_task(name)  # a stopped task cannot start again
        new = [name for name in names if name not in self._services.tasks]
        composed = dict(zip(new, self._services.catalogue.compose_all(new, self._services.registry), strict=True))
        tasks = [self._services.task(name, composed.get(name)) for name in names]
        self._start_all(tasks, timeout, on_ready)

    def _start_all(
        self, tasks: Sequence[ServiceTask], timeout: float | None, on_ready: Callable[[], None] | None = None
    ) -> None:
        # Read now: a constructor may call another of these services, which starts that service before its turn.
        started = [task for task in tasks if task.state == "pending"]
        try:
            for task in started:
                task.begin()
            _wait_ready(tasks, timeout)
            if on_ready is not None:
                on_ready()
        except BaseException:
            for task in reversed(started):
                task.undo_start()
            with self._services.lock:
                # A stopped task cannot start again, so the next deploy makes new ones.
                for task in started:
                    if self._services.tasks.get(task.service_name) is task:
                        self._services.remove_task(task.service_name)
            raise

    def adopt(self, timeout: float | None = None) -> list[str]:
        """As `Environment.adopt`."""
        if timeout is not None:
            timeout = checked_seconds(timeout, "timeout")
        with ExitStack() as stack:
            found: dict[str, ReplicaSpec] = {}
            keepers = self._services.keepers()
            if not keepers:
                msg = (
                    f"the services of environment {self._services.name!r} end with the process that deploys them, so "
                    "none can be taken over: make it with options={'ray': {'lifetime': 'detached', 'address': ...}}, "
                    "as the process that deploys them does"
                )
                raise ConfigError(msg)
            for target, keeper in keepers:
                stack.callback(target.close)
                found |= keeper.deployed()
            tasks = []
            with self._services.lock:
                self._services.check_open(next(iter(found), self._services.name))
                for name, spec in found.items():
                    task = self._services.tasks.get(name)
                    if task is None or task.state in NOT_RUNNING:
                        composition = self._services.catalogue.compose_as(
                            name, spec.factory, spec.config, self._services.registry
                        )
                        tasks.append(self._services.task_for(composition))
                for task in tasks:
                    self._services.remove_task(task.service_name)
                    self._services.tasks[task.service_name] = task
            self._start_all(tasks, timeout)
        return list(found)

    def apply(self, plan: Callable[[], DeploymentPlan], timeout: float | None, on_ready: Callable[[], None]) -> None:
        """As `Environment.apply`; *plan* returns the plan, *on_ready* is passed to `deploy`."""
        if timeout is not None:
            timeout = checked_seconds(timeout, "timeout", "; `apply` changes all services that are registered")
        if not self._applying.acquire(blocking=current_call() is None):
            msg = (
                f"environment {self._services.name!r} is being changed by another thread; from within a service's call "
                "that cannot be waited for: apply again later"
            )
            raise DeployError(msg)
        try:
            found = plan()
            for service in found.services:
                if service.action == "change":
                    self._change(service, timeout)
            self.deploy(timeout, on_ready)
            for service in found.services:
                if service.action == "remove":
                    with self._services.lock:
                        task = self._services.remove_task(service.name)
                    if task is not None:
                        task.stop()
        finally:
            self._applying.release()

    def _change(self, service: ServicePlan, timeout: float | None) -> None:
        """Change the running service if its router and handles can stay; if not, replace it as a whole."""
        from sage_plugins.deployment.updating.update_plan import UpdateKind  # most environments are never changed

        name = service.name
        new, _ = self._services.catalogue.compose(name, self._services.registry)
        update = self._services.plan_update(name, new, [change.key for change in service.changes])
        with self._services.lock:
            task = self._services.tasks[name]
        if update.kind is UpdateKind.WHOLE or not task.is_running:
            self._replace(name, timeout)
        else:
            task.changes.apply(new, timeout, rolls=update.kind is UpdateKind.ROLL)

    def _replace(self, name: str, timeout: float | None) -> None:
        from sage_plugins.resilience.rollout import RolloutSettings  # as above

        new = self._services.new_task(name, takes_over=False)  # replicas of the old one stop with it
        settings = RolloutSettings.of(new.composition.config.update)
        limit = settings.progress_deadline if timeout is None else timeout
        try:
            new.start_running(limit)
            new.wait_healthy(limit)
            if settings.min_ready_s:
                new.instances.wait_steady(settings.min_ready_s)
        except DeployError as error:
            new.stop(drain_timeout=0)
            msg = f"service '{name}' was rolled back, and goes on as it was before the update: {error}"
            raise DeployError(msg, service=name, replica=error.replica) from error.__cause__
        except BaseException:  # KeyboardInterrupt too: no other code knows the new task
            new.stop(drain_timeout=0)
            raise
        with self._services.lock:
            closed = self._services.closed
            old = self._services.tasks.get(name)
            if not closed:
                self._services.remove_task(name)
                self._services.tasks[name] = new
        if closed:
            new.stop(drain_timeout=0)
            self._services.check_open(name)
        if old is not None:
            old.stop()

    def close(self, drain_timeout: float | None, on_done: Callable[[], None]) -> None:
        """As `Environment.close`; calls *on_done* when all services have stopped."""
        tasks = self._services.close()
        if any(task.owns(current_call()) for task in tasks):
            # A service's own call closes its environment: waiting here for that call would be a deadlock.
            start_thread(lambda: self._close(tasks, drain_timeout, on_done), f"{self._services.name}-close")
        else:
            self._close(tasks, drain_timeout, on_done)

    def _close(self, tasks: list[ServiceTask], drain_timeout: float | None, on_done: Callable[[], None]) -> None:
        # Accepted calls may call other services, so all services accept their calls until all are idle.
        idle = threading.Event()

        def look() -> None:
            if all(task.idle for task in tasks):
                idle.set()

        for task in tasks:
            task.close_to_outsiders(look)
        look()
        limits = [task.drain_timeout if drain_timeout is None else drain_timeout for task in tasks]
        until = self._services.clock.monotonic() + max(limits, default=0.0)
        idle.wait(until - self._services.clock.monotonic())
        for task in reversed(tasks):
            task.close(max(0.0, until - self._services.clock.monotonic()))
        on_done()

    def after_fork(self) -> None:
        """In a forked child: replace the lock, because its holder does not exist here."""
        self._applying = threading.Lock()


def _wait_ready(tasks: Sequence[ServiceTask], timeout: float | None) -> None:
    """Wait until all *tasks* are ready, or the first fails. The others may be waiting for that one."""
    late = {task for task in tasks if not task.is_running}  # each needs a thread, so skip those that are ready
    waits = [future_of(partial(task.wait_ready, timeout), f"{task.service_name}-ready") for task in late]
    wait(waits, return_when=FIRST_EXCEPTION)
    for each in waits:
        if each.done():
            each.result()
    for task in set(tasks) - late:
        task.wait_ready(timeout)  # returns at once, or nearly
