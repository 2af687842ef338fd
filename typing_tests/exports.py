"""
Each name of `sage_plugins` has its own type, although it is imported only at its first use.

A name that type checkers could not resolve would be `Any`, and they would accept every mistake with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from typing import Any, Literal, assert_type

import sage_plugins
from sage_plugins import (
    DeploymentTarget,
    Environment,
    ServiceContext,
    ServiceDeploymentConfig,
    ServiceFactory,
    ServiceHandle,
    ServiceMetrics,
    ServiceMonitor,
    ServiceTask,
    ServiceTaskFactory,
    ThreadingStrategy,
    batch_of,
    errors,
    hookimpl,
    idempotent,
)


class Echo:
    """A service."""

    def process(self, text: str) -> str:
        """Return the text."""
        return text


def a_name_that_is_not_offered_is_refused() -> None:
    """Type checkers refuse a wrong name, as an attribute and as an import."""
    from sage_plugins import Enviroment  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnusedImport]

    sage_plugins.Enviroment  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    assert_type(sage_plugins.__version__, str)


def classes_are_themselves() -> None:
    """Each exported class and decorator has its own type."""
    assert_type(sage_plugins.Environment, type[Environment])
    assert_type(sage_plugins.ServiceTask, type[ServiceTask])
    every: tuple[type, ...] = (ServiceContext, ServiceFactory, ServiceHandle, ServiceMetrics, ServiceTaskFactory)
    assert_type(len(every), int)
    marks: tuple[Callable[[Callable[[], int]], Callable[[], int]], ...] = (hookimpl, idempotent, batch_of("get"))
    assert_type(len(marks), int)


def a_configuration_knows_its_fields() -> None:
    """Type checkers know the name and the type of each field, so editors complete them."""
    config = ServiceDeploymentConfig(
        target=DeploymentTarget.LOCAL, threading_strategy=ThreadingStrategy.POOL, thread_count=4, timeout=60.0
    )
    assert_type(config.replicas, int)
    assert_type(config.target, str)
    assert_type(config.threading_strategy, str)
    ServiceDeploymentConfig(replica=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ServiceDeploymentConfig(replicas="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    config.replicas = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def registering_gives_the_factory(env: Environment) -> None:
    """Registering returns the factory, from which a task is made."""
    factory = env.register_service("echo", Echo)
    assert_type(factory, ServiceFactory)
    assert_type(factory.service_name, str)
    env.register_service(Echo, "echo")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    env.register_service_with_config("echo", Echo)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    task = ServiceTaskFactory(factory).create_service_task()
    assert_type(task, ServiceTask)
    assert_type(task.handle, ServiceHandle)
    assert_type(env.task("echo"), ServiceTask)
    assert_type(env.get_service_status("echo"), dict[str, Any])


def metrics_are_numbers(metrics: ServiceMetrics) -> None:
    """Each metric has a name and the type of a number."""
    assert_type(metrics.request_count, int)
    assert_type(metrics.p99, float)
    assert_type(metrics.outcomes, Mapping[str, int])


def a_monitor_shows_a_task(task: ServiceTask) -> None:
    """The results have the types of a status."""
    monitor = ServiceMonitor(task, keep=10)
    assert_type(monitor.metrics, ServiceMetrics)
    assert_type(monitor.health, Mapping[str, Any])
    assert_type(monitor.get_service_status(), dict[str, Any])


def a_service_reaches_others_through_its_context(ctx: ServiceContext) -> None:
    """Handles from a context are typed if the caller names the class, like those from an environment."""
    assert_type(ctx.service("echo"), ServiceHandle)
    assert_type(ctx.service("echo", Echo).process("hello"), str)
    ctx.service("echo", Echo).procss("hello")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    assert_type(ctx.remaining(), float | None)
    assert_type(ctx.cancelled, bool)


def errors_carry_what_they_know(error: errors.CallError) -> None:
    """Errors have typed attributes, and are subclasses of the builtin errors that `except` may name."""
    builtin: RuntimeError = error
    assert_type(error.service, str | None)
    if isinstance(error, errors.CallTimeoutError):
        late: TimeoutError = error
        assert_type(error.stage, Literal["queue", "run"])
        print(late)
    if isinstance(error, errors.CallCancelledError):
        cancelled: CancelledError = error
        print(cancelled)
    if isinstance(error, errors.OverloadedError):
        assert_type(error.retry_after, float | None)
    print(builtin)
