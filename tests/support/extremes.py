"""Cases with the largest loads that a target must carry. A test class names the target."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from sage_plugins import ServiceDeploymentConfig

__all__ = ["ExtremeCases"]

_CALLERS, _REPLICAS, _CALLS = 64, 8, 50
_GIB = 2**30


class Service:
    """Returns its arguments and its replica's index."""

    ctx: Any

    def which(self, value: int) -> tuple[int, int]:
        return value, self.ctx.replica_index

    def turned(self, data: bytearray) -> bytearray:
        """Return the bytes with the first and the last one exchanged."""
        data = bytearray(data)
        data[0], data[-1] = data[-1], data[0]
        return data


class ExtremeCases:
    """Cases for a target, which a subclass sets in `config`."""

    config: ClassVar[dict[str, Any]]

    def test_many_callers_of_many_replicas_get_their_own_answers(self, environments: Any) -> None:
        """Each call is answered once, with its own value. Every replica gets calls."""
        config = ServiceDeploymentConfig(
            **self.config, replicas=_REPLICAS, threading_strategy="pool", thread_count=4, load_balancing=True
        )
        env = environments("many")
        env.register_service_with_config("svc", Service, deployment_config=config)
        env.deploy()
        handle = env.service("svc")

        def ask(caller: int) -> list[tuple[int, int]]:
            return [handle.which(caller * _CALLS + number) for number in range(_CALLS)]

        with ThreadPoolExecutor(_CALLERS) as pool:
            answers = [answer for each in pool.map(ask, range(_CALLERS)) for answer in each]
        assert [value for value, _ in answers] == list(range(_CALLERS * _CALLS))
        assert Counter(replica for _, replica in answers).keys() == set(range(_REPLICAS))

    def test_argument_and_result_of_a_gibibyte_travel(self, environments: Any) -> None:
        """A gibibyte arrives complete in both directions."""
        config = ServiceDeploymentConfig(**self.config, timeout=120)
        env = environments("large")
        env.register_service_with_config("svc", Service, deployment_config=config)
        env.deploy()
        data = bytearray(_GIB)
        data[0], data[_GIB // 2], data[-1] = 1, 2, 3
        answer = env.service("svc").turned(data)
        assert len(answer) == _GIB
        assert (answer[0], answer[_GIB // 2], answer[-1]) == (3, 2, 1)
