"""Errors for services of other processes that cannot be called from here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_plugins.call.current import current_call
from sage_plugins.clock import SYSTEM
from sage_plugins.errors import (
    CallError,
    CallTimeoutError,
    ForkedRuntimeError,
    NoReplicaError,
    ReentrantCallError,
    ServiceNotFoundError,
    ServiceStoppedError,
)
from sage_plugins.texts import did_you_mean

if TYPE_CHECKING:
    from sage_deploy_remote.reach.listing import Found

__all__ = ["check_found", "check_no_circle", "forked", "seconds_left", "stopped"]


def check_found(found: Found | None, service: str, environment: str, caller: str | None) -> Found:
    """
    Return *found* if the service can be called from here.

    Args:
        found: What the directory knows; None if there is no directory.
        service: Its name.
        environment: Its environment's name.
        caller: The service whose replica asks; None if it is another program.

    Raises:
        NoReplicaError: There is no directory.
        ServiceNotFoundError: The environment has no such service.
        CallError: The service ends with its deploying process, but the environment's other services do not.
    """
    where = f"environment '{environment}'"
    if found is None:
        msg = (
            f"service '{service}' cannot be found: the process that deploys {where} has ended, or not yet begun, or "
            "its directory of services has died and is being started again"
        )
        raise NoReplicaError(msg, service=service)
    if found.listing is not None:
        return found
    known = found.known.get(service)
    if known is None:
        near = did_you_mean(service, list(found.known))
        hint = f"did you mean {near!r}?" if near else f"registered: {', '.join(found.known) or 'none'}"
        raise ServiceNotFoundError(f"no service {service!r} in {where}: {hint}", service=service)
    if not known.reachable:
        who = "this process" if caller is None else f"service '{caller}'"
        msg = (
            f"service '{service}' runs in the process that deployed it, on target '{known.target}'. The other services "
            f"of {where} outlive that process, so {who} cannot call it. Give '{service}' a target like theirs, or hand "
            "over what is needed of it as an argument"
        )
        raise CallError(msg, service=service)
    return found


def check_no_circle(found: Found, service: str) -> None:
    """
    Check that the start hooks that ask for *service* do not wait for their own end.

    Raises:
        ReentrantCallError: They do, because the service is deployed only after they have ended.
    """
    if found.circle:
        msg = (
            f"a call of {service} would never start: services that other processes have are reached once all their "
            f"start hooks have ended, and these wait for each other: {' -> '.join(found.circle)}. Call it in a method "
            "instead"
        )
        raise ReentrantCallError(msg, service=service)


def seconds_left(service: str, environment: str, begun: float, startup_timeout: float) -> float:
    """
    Return how many seconds a call may still wait until the service is deployed.

    Args:
        service: Its name.
        environment: Its environment's name.
        begun: `monotonic()` when the wait began.
        startup_timeout: Seconds that the service's replicas get to become ready.

    Raises:
        CallTimeoutError: The deadline of the call that is being answered has passed.
        NoReplicaError: The service was not deployed in time.
    """
    now = SYSTEM.monotonic()
    outer = current_call()
    if outer is not None and now >= outer.deadline:
        msg = f"{service} was not called: it is not deployed, and the time of the call that is being answered is over"
        raise CallTimeoutError(msg, stage="queue", service=service)
    until = begun + startup_timeout
    if now >= until:
        msg = (
            f"service '{service}' was not deployed in {startup_timeout:g} s (its startup_timeout): a call from "
            f"another process does not deploy it. Call `deploy()` of environment '{environment}' first"
        )
        raise NoReplicaError(msg, service=service)
    return (until if outer is None else min(until, outer.deadline)) - now


def stopped(service: str, how: str) -> ServiceStoppedError:
    """Return the error for a call of a service that has stopped; *how* completes "service 'kv' ..."."""
    return ServiceStoppedError(f"service '{service}' {how}", service=service)


def forked(service: str) -> ForkedRuntimeError:
    """Return the error for a call in a forked child of a process that uses the service."""
    return ForkedRuntimeError(
        f"service '{service}' cannot be called from here: this process was forked from one that uses it, and "
        "neither threads nor the connection survive a fork. Fork before anything is called, or start this process "
        "with multiprocessing's `spawn` and hand it the handle"
    )
