"""The rules between the core's own fields. docs/errors.md explains each rule under its ID."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.config.field_checks import shown
from sage_plugins.config.nested_keys import UPDATE_FIELDS
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["BATCH_WAIT", "DERIVED", "HEALTH_CHECK_TIMEOUT", "cross_problems"]

#: Default seconds that a batch waits to fill.
BATCH_WAIT: Final = 0.01

#: Default seconds that a health check may take, unless the interval is shorter.
HEALTH_CHECK_TIMEOUT: Final = 5.0


# Rules between fields. Each gets the values of the fields that it names; each value is valid on its own.


def _can_be_several(replicas: int, autoscale: Mapping[str, Any] | None) -> bool:
    if autoscale is None:
        return replicas > 1
    most = autoscale.get("max")
    # If `max` is not an integer, the check of autoscale itself reports that.
    return not isinstance(most, int) or most > 1


def _balances(replicas: int, autoscale: Mapping[str, Any] | None, load_balancer: str | None) -> bool:
    return load_balancer is not None or _can_be_several(replicas, autoscale)


def _within_interval(health_check_interval: float) -> float:
    return min(HEALTH_CHECK_TIMEOUT, health_check_interval)


#: How to compute a field that was not set: a function, and the fields whose values it gets.
DERIVED: Final[Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]]] = MappingProxyType(
    {
        "load_balancing": (_balances, ("replicas", "autoscale", "load_balancer")),
        "health_check_timeout": (_within_interval, ("health_check_interval",)),
    }
)


def _replicas_serve(
    replicas: int,
    load_balancing: bool,  # noqa: FBT001 - the value of a field
    failover_enabled: bool,  # noqa: FBT001 - the value of a field
    autoscale: Mapping[str, Any] | None,
    load_balancer: str | None,
) -> Iterable[Problem]:
    several = _can_be_several(replicas, autoscale)
    if autoscale is None and replicas > 1 and not load_balancing and not failover_enabled:
        yield Problem(
            "E402",
            "replicas",
            f"is {replicas}, but without load_balancing and failover_enabled only the first replica would ever serve",
            "remove load_balancing: false, or set failover_enabled: true",
            other="load_balancing",
        )
    if load_balancing and not several and load_balancer is None:  # a useless load_balancer has its own problem
        fix = "set replicas to 2 or more"
        yield Problem("W11", "load_balancing", "has nothing to balance with one replica", fix, other="replicas")
    if failover_enabled and not several:
        fix = "set replicas to 2 or more"
        message = "has no effect with one replica: there is no other that could take over"
        yield Problem("W08", "failover_enabled", message, fix, other="replicas")


def _fixed_or_scaled(replicas: int, autoscale: Mapping[str, Any] | None) -> Iterable[Problem]:
    # `replicas: 1` looks the same as the default, and does no harm.
    if autoscale is not None and replicas != 1:
        fix = "remove replicas; autoscale.initial says with how many to start"
        yield Problem(
            "E404", "replicas", f"is fixed at {replicas}, but autoscale decides the number", fix, other="autoscale"
        )


def _scale_in_order(autoscale: Mapping[str, Any] | None) -> Iterable[Problem]:
    bounds = [
        (name, value)
        for name in ("min", "initial", "max")
        if isinstance(value := (autoscale or {}).get(name), int) and not isinstance(value, bool)
    ]
    for (low, low_value), (high, high_value) in itertools.pairwise(bounds):
        if low_value > high_value:
            yield Problem(
                "E405",
                f"autoscale.{high}",
                f"must be at least autoscale.{low} ({shown(low_value)}), got {shown(high_value)}",
                f"raise it, or lower autoscale.{low}",
                other=f"autoscale.{low}",
            )


def _zero_wakes(autoscale: Mapping[str, Any] | None, queue_size: int, overload: str) -> Iterable[Problem]:
    # With `block`, the caller waits outside the queue, and wakes the service too.
    if autoscale is not None and autoscale.get("min") == 0 and queue_size == 0 and overload != "block":
        message = "is 0, and so is autoscale.min: without a replica every call is refused, and none is started"
        yield Problem("E406", "queue_size", message, "set queue_size to 1 or more", other="autoscale.min")


def _check_in_time(health_check_timeout: float, health_check_interval: float) -> Iterable[Problem]:
    if health_check_timeout > health_check_interval:
        yield Problem(
            "E603",
            "health_check_timeout",
            f"must be at most health_check_interval ({health_check_interval:g} s), got {health_check_timeout:g} s",
            f"set health_check_timeout: {health_check_interval:g}",
            other="health_check_interval",
        )


def _wait_in_time(queue_timeout: float | None, timeout: float | None) -> Iterable[Problem]:
    if queue_timeout is not None and timeout is not None and queue_timeout > timeout:
        yield Problem(
            "E605",
            "queue_timeout",
            f"must be at most timeout ({timeout:g} s), got {queue_timeout:g} s",
            "lower it, or remove it: timeout covers the wait",
            other="timeout",
        )


def _kills_in_time(
    timeout_strength: str, timeout: float | None, methods: Mapping[str, Mapping[str, Any]]
) -> Iterable[Problem]:
    if timeout_strength == "kill" and timeout is None and not any(each.get("timeout") for each in methods.values()):
        message = "has no effect: no call has a time limit"
        yield Problem("W12", "timeout_strength", message, "set timeout, or remove it", other="timeout")


def _batch_in_time(
    batch_wait: float, batch_size: int | None, timeout: float | None, methods: Mapping[str, Mapping[str, Any]]
) -> Iterable[Problem]:
    # Without batching nothing waits. A value that was set is checked anyway, because it may be used later.
    used = (batch_size or 1) > 1 or batch_wait != BATCH_WAIT
    if used and timeout is not None and batch_wait >= timeout:
        message = f"must be less than timeout ({timeout:g} s), got {batch_wait:g} s"
        yield Problem(
            "E503", "batch_wait", message, "lower it: a call must not use up its time waiting", other="timeout"
        )
    for name, method in methods.items():
        batch = method.get("batch")
        limit = method.get("timeout", timeout)
        if batch is None or limit is None:
            continue
        own = isinstance(batch, Mapping) and "wait" in batch
        wait = batch["wait"] if own else batch_wait
        # If both values are the service's own, the problem is reported above.
        if wait >= limit and (own or "timeout" in method or not used):
            wait_key = f"methods.{name}.batch.wait" if own else "batch_wait"
            limit_key = f"methods.{name}.timeout" if "timeout" in method else "timeout"
            key, other = (wait_key, limit_key) if own else (limit_key, wait_key)
            message = f"the wait for a batch of {name} ({wait:g} s) must be less than its timeout ({limit:g} s)"
            yield Problem("E503", key, message, "lower the one or raise the other", other=other)


def _drain_in_time(drain_timeout: float, timeout: float | None) -> Iterable[Problem]:
    if timeout is None or drain_timeout < timeout:
        longest = "have no time limit" if timeout is None else f"may take {timeout:g} s"
        fix = "" if timeout is None else f"set drain_timeout: {timeout:g}"
        message = f"is {drain_timeout:g} s, but calls {longest}: stopping a replica may cut calls off"
        yield Problem("W03", "drain_timeout", message, fix, other="timeout")


def _update_can_proceed(update: Mapping[str, Any] | None) -> Iterable[Problem]:
    if update is None:
        return
    surge, unavailable = (update.get(name, UPDATE_FIELDS[name].default) for name in ("max_surge", "max_unavailable"))
    if surge == unavailable == 0:
        message = "is 0, and so is update.max_surge: no replica could ever be replaced"
        yield Problem(
            "E604", "update.max_unavailable", message, "set one of them to 1 or more", other="update.max_surge"
        )


def _recycles_for_a_reason(recycle: Mapping[str, Any] | None) -> Iterable[Problem]:
    if recycle is not None and all(value is None for value in recycle.values()):
        message = "sets no limit: no replica would ever be replaced"
        yield Problem("E410", "recycle", message, "give max_calls, max_memory_mb or max_age, or remove it")


def _scaling_is_seen(
    autoscale: Mapping[str, Any] | None,
    enable_metrics: bool,  # noqa: FBT001 - the value of a field
) -> Iterable[Problem]:
    if autoscale is not None and not enable_metrics:
        message = "is false, so nothing shows what autoscale does to the calls"
        yield Problem("W09", "enable_metrics", message, "remove it, or remove autoscale", other="autoscale")


_CROSS_RULES: Final[Sequence[tuple[Callable[..., Iterable[Problem]], tuple[str, ...]]]] = (
    (_replicas_serve, ("replicas", "load_balancing", "failover_enabled", "autoscale", "load_balancer")),
    (_fixed_or_scaled, ("replicas", "autoscale")),
    (_scale_in_order, ("autoscale",)),
    (_zero_wakes, ("autoscale", "queue_size", "overload")),
    (_check_in_time, ("health_check_timeout", "health_check_interval")),
    (_wait_in_time, ("queue_timeout", "timeout")),
    (_kills_in_time, ("timeout_strength", "timeout", "methods")),
    (_batch_in_time, ("batch_wait", "batch_size", "timeout", "methods")),
    (_drain_in_time, ("drain_timeout", "timeout")),
    (_update_can_proceed, ("update",)),
    (_scaling_is_seen, ("autoscale", "enable_metrics")),
    (_recycles_for_a_reason, ("recycle",)),
)


def cross_problems(values: Mapping[str, Any]) -> list[Problem]:
    """
    Return the problems between the core's own fields: errors and warnings.

    Args:
        values: All fields by name, each valid on its own. Leave out fields that are wrong on their own: rules that read
            them are then skipped, so no field is reported twice.
    """
    return [
        problem
        for rule, names in _CROSS_RULES
        if all(name in values for name in names)
        for problem in rule(*[values[name] for name in names])
    ]
