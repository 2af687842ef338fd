"""
The rules for services that outlive the environment that deployed them.

The suite of a target that declares `detaches` sets `AdoptionCases.keeping`.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from sage_deploy_testing.suites.conformance import needs
from sage_deploy_testing.suites.service_conformance import Deployed, ServiceConformance
from sage_plugins import Environment, errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["AdoptionCases"]


class Counting:
    """A service that shows whether it is the same instance as before."""

    def __init__(self) -> None:
        self._calls = 0

    def count(self) -> int:
        """Return the number of this call."""
        self._calls += 1
        return self._calls


class AdoptionCases(ServiceConformance):
    """
    One environment deploys a service, and another one with the same name takes it over.

    Attributes:
        keeping: Options of plugins for an environment, by ID, with which its replicas outlive it.
    """

    keeping: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @contextlib.contextmanager
    def succession(self) -> Iterator[Callable[..., Deployed]]:
        """Yield a function that makes the service in a new environment of one name. At the end, stop the service."""
        name = f"kept-{os.urandom(8).hex()}"

        def environment() -> Environment:
            env = Environment(name, registry=self.registry(), options=self.keeping)
            self._environments.append(env)
            return env

        def service(**fields: Any) -> Deployed:
            return self.register(Counting, env=environment(), **fields)

        try:
            yield service
        finally:
            for env in self._environments:
                env.close(drain_timeout=0)
            successor = environment()
            for each in successor.adopt():
                successor.drain(each, 0)

    @needs("detaches")
    def test_closing_leaves_a_service_to_the_next_environment(self) -> None:
        """A service outlives its environment unchanged, even if the next environment only calls it. `drain` ends it."""
        with self.succession() as make:
            first = make()
            assert first.handle.count() == 1
            first.env.close()
            with pytest.raises(errors.ServiceStoppedError):
                first.handle.count()
            second = make()
            assert second.handle.count() == 2
            second.env.drain("svc")
            third = make()
            assert third.env.adopt() == []
            assert third.handle.count() == 1

    @needs("detaches")
    def test_one_environment_at_a_time_has_the_service_and_others_may_call_it(self) -> None:
        with self.succession() as make:
            first = make()
            assert first.handle.count() == 1
            other = Environment(first.env.name, registry=self.registry(), options=self.keeping)
            self._environments.append(other)
            assert other.service("svc").count() == 2
            with pytest.raises(errors.DeployError):
                other.adopt()
            first.env.close()
            assert other.service("svc").count() == 3
            assert other.adopt() == ["svc"]
            other.scale("svc", 2)

    @needs("detaches")
    def test_what_was_taken_over_is_changed_like_anything_else(self) -> None:
        """A service that was taken over can be changed. Replica numbers continue, and the number of replicas stays."""
        with self.succession() as make:
            first = make(**self.several(1))
            first.env.deploy()
            first.env.scale("svc", 2)
            first.env.close()
            second = make(**self.several(1))
            second.env.deploy()
            assert [each["id"] for each in second.status["replicas"]] == ["svc#0", "svc#1"]
            second.env.restart("svc")
            assert [each["id"] for each in second.status["replicas"]] == ["svc#0.1", "svc#1.1"]
            second.env.scale("svc", 1)
            second.env.close()
            third = make(**self.several(1))
            third.env.deploy()
            assert [each["id"] for each in third.status["replicas"]] == ["svc#0.1"]

    @needs("detaches")
    def test_service_that_runs_otherwise_is_refused_and_taken_over_as_it_is_by_adopt(self) -> None:
        with self.succession() as make:
            first = make()
            assert first.handle.count() == 1
            first.env.close()
            second = make(queue_size=7)
            with pytest.raises(errors.DeployError, match="queue_size"):
                second.env.deploy()
            assert second.env.adopt() == ["svc"]
            assert second.handle.count() == 2
            second.env.apply()
            assert second.status["deployment_config"].queue_size == 7
            assert second.handle.count() == 1
