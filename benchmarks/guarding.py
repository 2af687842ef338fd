"""What guards cost a call that succeeds: retries, circuit breaker, ejection, hedging, against a service without any."""

from __future__ import annotations

import argparse
import statistics
from time import thread_time
from typing import TYPE_CHECKING, Any, Final

from rounds import interleave, per_call

from sage_plugins import Environment, ServiceDeploymentConfig, idempotent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CALLS: Final = 3_000
_RETRY: Final[Mapping[str, Any]] = {"retry": {"on": ["ConnectionError"]}}
#: By what is on: the strategy and the fields. The first of each strategy is what the others are compared with, and the
#: last one shows what two equal services differ by on this machine.
_GUARDS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "": ("inline", {}),
    "`retry`": ("inline", _RETRY),
    "`circuit_breaker`": ("inline", {"circuit_breaker": {}}),
    "`outlier`": ("inline", {"outlier": {}}),
    "all three": ("inline", {**_RETRY, "circuit_breaker": {}, "outlier": {}}),
    "`hedge`": ("inline", {"hedge": {}}),
    "nothing, once more": ("inline", {}),
    "in a worker": ("single", {}),
    "`hedge`, in a worker": ("single", {"hedge": {}}),
}


class Service:
    """One method, which costs nothing itself."""

    @idempotent
    def nothing(self) -> None:
        """Return."""


def main() -> None:
    """Print microseconds of the caller's processor that each guard adds to a call of two replicas."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    with Environment("bench") as env:
        contenders: dict[str, Callable[[], float]] = {}
        for number, (name, (strategy, fields)) in enumerate(_GUARDS.items()):
            config = ServiceDeploymentConfig(threading_strategy=strategy, replicas=2, load_balancing=True, **fields)
            env.register_service_with_config(f"guarded-{number}", Service, deployment_config=config)
            service = env.service(f"guarded-{number}", Service)
            contenders[name] = lambda method=service.nothing: per_call(method, _CALLS, thread_time)  # type: ignore[misc]
        env.deploy()
        measured = interleave(contenders, rounds)
    bare = {strategy: name for name, (strategy, _) in reversed(_GUARDS.items())}
    print(f"a call of a service without guards: {1e6 * statistics.median(measured['']):.2f} µs\n")
    print("| on | µs more than nothing |")
    print("| --- | --- |")
    for name, (strategy, _) in _GUARDS.items():
        if bare[strategy] != name:
            pairs = zip(measured[name], measured[bare[strategy]], strict=True)
            low, middle, high = statistics.quantiles(1e6 * (ours - theirs) for ours, theirs in pairs)
            print(f"| {name} | {middle:.2f} [{low:.2f} .. {high:.2f}] |")


if __name__ == "__main__":
    main()
