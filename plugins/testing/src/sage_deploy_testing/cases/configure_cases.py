"""`user_config`: handed to the class's `reconfigure` before the first call, and again when it has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sage_deploy_testing.suites.conformance import unless
from sage_deploy_testing.suites.service_conformance import Deployed, ServiceConformance
from sage_plugins import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ConfigureCases"]


class Configured:
    """Knows its configuration, how often it was given one, and which thread gave it; refuses a limit below 0."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def start_running(self) -> None:
        self.seen.append("start_running")

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        if user_config["limit"] < 0:
            msg = f"limit {user_config['limit']}"
            raise ValueError(msg)
        self.seen.append(user_config)

    def look(self) -> list[Any]:
        return self.seen


class AsyncConfigured(Configured):
    """Does it as a coroutine."""

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:  # type: ignore[override]
        super().reconfigure(user_config)


class ConfigureCases(ServiceConformance):
    """The same on every target; strategies that run calls in their callers' threads get new replicas instead."""

    def apply(self, service: Deployed, cls: type, **fields: Any) -> None:
        """Have the service run with this configuration."""
        service.env.register_service_with_config(service.name, cls, deployment_config=self.configuration(**fields))
        service.env.apply()

    def looks(self, service: Deployed) -> list[list[Any]]:
        """What each of two replicas has seen; the balancer `round_robin` takes turns."""
        return [service.handle.look() for _ in range(2)]

    @pytest.mark.parametrize("cls", [Configured, AsyncConfigured])
    def test_configuration_comes_before_the_service_starts_running(self, cls: type) -> None:
        """As plain values: the service may keep and change them."""
        service = self.deploy(cls, user_config={"limit": 1, "names": ["a"]})
        assert service.handle.look() == [{"limit": 1, "names": ["a"]}, "start_running"]

    @unless("in_callers_thread")
    @pytest.mark.parametrize("cls", [Configured, AsyncConfigured])
    def test_changed_configuration_reaches_the_replicas_that_run(self, cls: type) -> None:
        """None of them is replaced; one that is added has it from the start."""
        several = self.several(2, "round_robin")
        service = self.deploy(cls, user_config={"limit": 1}, **several)
        before = [replica["id"] for replica in service.status["replicas"]]
        self.apply(service, cls, user_config={"limit": 2}, **several)
        assert self.looks(service) == [[{"limit": 1}, "start_running", {"limit": 2}]] * 2
        assert [replica["id"] for replica in service.status["replicas"]] == before
        service.env.restart(service.name, before[0])
        assert sorted(map(len, self.looks(service))) == [2, 3]
        assert [each.action for each in service.env.plan().services] == ["keep"]

    @unless("in_callers_thread")
    def test_configuration_that_one_refuses_is_taken_back_from_all(self) -> None:
        """The service goes on with the old one, and a replica that starts later gets that, too."""
        several = self.several(2, "round_robin")
        service = self.deploy(Configured, user_config={"limit": 1}, **several)
        with pytest.raises(errors.DeployError, match="goes on with its old user_config") as caught:
            self.apply(service, Configured, user_config={"limit": -1}, **several)
        assert "limit -1" in str(caught.value)
        assert all(seen[-1] in ({"limit": 1}, "start_running") for seen in self.looks(service))
        service.env.restart(service.name)
        assert self.looks(service) == [[{"limit": 1}, "start_running"]] * 2

    def test_more_replicas_replace_none(self) -> None:
        """A changed number is all that `apply` changes."""
        service = self.deploy(Configured, **self.several(2))
        self.apply(service, Configured, **self.several(3))
        assert [replica["id"] for replica in service.status["replicas"]] == ["svc#0", "svc#1", "svc#2"]
        assert [each.action for each in service.env.plan().services] == ["keep"]
