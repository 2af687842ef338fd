"""Registers the load balancers, which pick the replica for each call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.hookspecs import hookimpl
from sage_plugins.values import Registration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_plugins.values import Where

__all__ = ["sage_register_load_balancers"]


def _create_round_robin(_options: None, _where: Where) -> Any:
    from sage_deploy_balancers.round_robin import RoundRobin  # imported here, as below: keeps discovery cheap

    return RoundRobin()


def _create_least_loaded(_options: None, _where: Where) -> Any:
    from sage_deploy_balancers.least_loaded import LeastLoaded

    return LeastLoaded()


def _create_random(options: Any, _where: Where) -> Any:
    from sage_deploy_balancers.random_choice import RandomChoice

    return RandomChoice(options)


def _create_power_of_two(options: Any, _where: Where) -> Any:
    from sage_deploy_balancers.random_choice import PowerOfTwo

    return PowerOfTwo(options)


def _create_consistent_hash(options: Any, _where: Where) -> Any:
    from sage_deploy_balancers.consistent_hash import ConsistentHash

    return ConsistentHash(options)


def _random_options() -> type:
    from sage_deploy_balancers.options import RandomOptions

    return RandomOptions


def _consistent_hash_options() -> type:
    from sage_deploy_balancers.options import ConsistentHashOptions

    return ConsistentHashOptions


def _explain_consistent_hash(_config: Any, options: Any) -> Iterator[str]:
    if options.key is not None:
        yield f"a call's key is its argument '{options.key}', unless with_options gives one"
    yield "a call waits for the replica of its key, also while another one is free"
    if options.load_bound is None:
        yield "a key stays with its replica whatever the load (load_bound: null)"
    else:
        yield f"a replica with more than {options.load_bound:g} times the mean of calls passes keys on to the next"


@hookimpl
def sage_register_load_balancers() -> list[Registration]:
    """Offer `round_robin`, `random`, `least_loaded`, `power_of_two` and `consistent_hash`."""
    return [
        Registration("round_robin", _create_round_robin, "Each replica in turn", capabilities=frozenset({"spreads"})),
        Registration(
            "random",
            _create_random,
            "A random replica, all equally likely",
            options=_random_options,
            capabilities=frozenset({"spreads"}),
        ),
        Registration(
            "least_loaded",
            _create_least_loaded,
            "The replica with the fewest calls; in turn among equals",
            capabilities=frozenset({"spreads", "avoids_load"}),
        ),
        Registration(
            "power_of_two",
            _create_power_of_two,
            "The replica with fewer calls, of two random ones",
            options=_random_options,
            capabilities=frozenset({"spreads", "avoids_load"}),
        ),
        Registration(
            "consistent_hash",
            _create_consistent_hash,
            "Equal keys to the same replica, within a bound on its load",
            options=_consistent_hash_options,
            explain=_explain_consistent_hash,
            capabilities=frozenset({"spreads", "avoids_load", "binds_keys", "names_key"}),
        ),
    ]
