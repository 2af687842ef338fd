"""The cost of guards for a call that succeeds: retries, circuit breaker, ejection, hedging, against none."""

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
_BARE: Final = "nothing"
#: The last one shows how much two equal services differ on this machine.
_GUARDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "`retry`": _RETRY,
    "`circuit_breaker`": {"circuit_breaker": {}},
    "`outlier`": {"outlier": {}},
    "all three": {**_RETRY, "circuit_breaker": {}, "outlier": {}},
    "`hedge`": {"hedge": {}},
    "nothing, once more": {},
}


class Service:
    """A method that costs nothing itself."""

    @idempotent
    def nothing(self) -> None:
        """Return None."""


def main() -> None:
    """Print the microseconds of the caller's processor time that each guard adds to an inline call of two replicas."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    with Environment("bench") as env:
        contenders: dict[str, Callable[[], float]] = {}
        for number, (name, fields) in enumerate({_BARE: {}, **_GUARDS}.items()):
            config = ServiceDeploymentConfig(threading_strategy="inline", replicas=2, load_balancing=True, **fields)
            env.register_service_with_config(f"guarded-{number}", Service, deployment_config=config)
            service = env.service(f"guarded-{number}", Service)
            contenders[name] = lambda method=service.nothing: per_call(method, _CALLS, thread_time)  # type: ignore[misc]
        env.deploy()
        measured = interleave(contenders, rounds)
    print(f"a call of a service without guards: {1e6 * statistics.median(measured[_BARE]):.2f} µs\n")
    print("| on | µs more than nothing |")
    print("| --- | --- |")
    for name in _GUARDS:
        added = [1e6 * (ours - bare) for ours, bare in zip(measured[name], measured[_BARE], strict=True)]
        low, middle, high = statistics.quantiles(added)
        print(f"| {name} | {middle:.2f} [{low:.2f} .. {high:.2f}] |")


if __name__ == "__main__":
    main()
