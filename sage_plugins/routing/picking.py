"""Protects a service from faults of its load balancer: if the balancer raises, round robin replaces it."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

from sage_plugins.errors import InvalidKeyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.interfaces import Balancer, Candidate
    from sage_plugins.routing.lane import Lane
    from sage_plugins.routing.observing import Observe
    from sage_plugins.service.call_key import KeyOf
    from sage_plugins.values import Choice, Where

__all__ = ["fenced_picker", "make_balancer"]


def make_balancer(choice: Choice | None, where: Where) -> tuple[Balancer | None, Observe | None]:
    """Return a new balancer, and its `observe` if it declares one; (None, None) for no choice."""
    if choice is None:
        return None, None
    balancer: Any = choice.create(where)
    return balancer, balancer.observe if "observes" in choice.registration.capabilities else None


def fenced_picker(
    balancer: Balancer,
    lanes: tuple[Lane, ...],
    key_of: KeyOf | None,
    on_error: Callable[[BaseException], None],
    observe: Observe | None = None,
) -> Callable[[Call], Candidate]:
    """
    Return a function that chooses one of *lanes* for a call.

    If the balancer raises or chooses an unknown lane, round robin replaces it. An InvalidKeyError for a call's key goes
    to the caller instead.

    Args:
        balancer: Composes the choice.
        lanes: The lanes to choose from; at least one.
        key_of: Returns the key of a call whose caller gave none; None if only callers give keys.
        on_error: Called once, when round robin replaces the balancer.
        observe: Called with the end of each call that the balancer placed.
    """
    turns: Callable[[], Lane] = cycle(lanes).__next__
    try:
        pick = balancer.picker(lanes)
    except Exception as error:  # noqa: BLE001 - the plugin may raise anything
        on_error(error)
        return lambda _: turns()
    known = frozenset(lanes)
    fenced = False

    def fence(error: BaseException) -> None:
        nonlocal fenced
        if not fenced:
            fenced = True
            on_error(error)

    def picked(call: Call) -> Candidate:
        if not fenced:
            key = call.options.key
            if key is None and key_of is not None:
                key = key_of(call)
            try:
                lane = pick(key, call.method.name)
                if lane in known:
                    return lane
                error: Exception = LookupError(f"it chose {lane!r}, which is not among the replicas")
            except Exception as raised:  # noqa: BLE001 - the plugin may raise anything
                if key is not None and isinstance(raised, InvalidKeyError):
                    raise _invalid_key(call, raised) from None
                error = raised
            fence(error)
        return turns()

    return picked if observe is None else _observed(picked, observe, fence)


def _observed(
    picked: Callable[[Call], Candidate], observe: Observe, fence: Callable[[BaseException], None]
) -> Callable[[Call], Candidate]:
    """Wrap *picked* so that *observe* learns how each call ended, until it raises."""
    from sage_plugins.routing.observing import observe_end  # few balancers observe

    faulty = False

    def told(candidate: Candidate, method: str, outcome: int, wait_s: float, run_s: float) -> None:
        nonlocal faulty
        if not faulty:
            try:
                observe(candidate, method, outcome, wait_s, run_s)
            except Exception as raised:  # noqa: BLE001 - the plugin may raise anything
                faulty = True
                fence(raised)

    def picked_and_observed(call: Call) -> Candidate:
        lane = picked(call)
        observe_end(call, told)
        return lane

    return picked_and_observed


def _invalid_key(call: Call, wrong: InvalidKeyError) -> InvalidKeyError:
    service, method = call.owner.service, call.method.name
    return InvalidKeyError(f"{service}.{method} was not run: {wrong}", service=service, method=method)
