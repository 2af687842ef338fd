"""What guards cost a call that succeeds: retries, circuit breaker, ejection, hedging, against a service without any."""

from __future__ import annotations

import argparse
import statistics
from typing import TYPE_CHECKING, Any, Final

from rounds import interleave, per_call

from sage_plugins import Environment, ServiceDeploymentConfig, idempotent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CALLS: Final = 20_000
_BARE: Final = "nothing"
#: The last one shows what two equal services differ by on this machine.
_GUARDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "`retry`": {"retry": {"on": ["ConnectionError"]}},
    "`circuit_breaker`": {"circuit_breaker": {}},
    "`outlier`": {"outlier": {}},
    "all three": {"retry": {"on": ["ConnectionError"]}, "circuit_breaker": {}, "outlier": {}},
    "`hedge`": {"hedge": {}},
    "nothing, once more": {},
}


class Service:
    """One method, which costs nothing itself."""

    @idempotent
    def nothing(self) -> None:
        """Return."""


def main() -> None:
    """Print microseconds that each guard adds to an inline call of two replicas."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with Environment("bench") as env:
        contenders: dict[str, Callable[[], float]] = {}
        for number, (name, fields) in enumerate({_BARE: {}, **_GUARDS}.items()):
            config = ServiceDeploymentConfig(threading_strategy="inline", replicas=2, load_balancing=True, **fields)
            env.register_service_with_config(f"guarded-{number}", Service, deployment_config=config)
            service = env.service(f"guarded-{number}", Service)
            contenders[name] = lambda method=service.nothing: per_call(method, _CALLS)  # type: ignore[misc]
        env.deploy()
        measured = interleave(contenders, rounds)
    print("| on | µs more than nothing |")
    print("| --- | --- |")
    for name in _GUARDS:
        added = sorted(1e6 * (ours - bare) for ours, bare in zip(measured[name], measured[_BARE], strict=True))
        print(f"| {name} | {statistics.median(added):.2f} [{added[0]:.2f} .. {added[-1]:.2f}] |")


if __name__ == "__main__":
    main()
