"""The rules for `user_config`: `reconfigure` gets it before the first call, and again after each change."""

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
    """Records each configuration and `start_running`, in order. Refuses a limit below 0."""

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
    """As `Configured`, with a coroutine."""

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:  # type: ignore[override]
        super().reconfigure(user_config)


class ConfigureCases(ServiceConformance):
    """These rules hold on every target. Strategies that run calls in callers' threads get new replicas instead."""

    def apply(self, service: Deployed, cls: type, **fields: Any) -> None:
        """Apply this configuration to the service."""
        service.env.register_service_with_config(service.name, cls, deployment_config=self.configuration(**fields))
        service.env.apply()

    def looks(self, service: Deployed) -> list[list[Any]]:
        """Return what each of two replicas has seen. The balancer `round_robin` alternates between them."""
        return [service.handle.look() for _ in range(2)]

    @pytest.mark.parametrize("cls", [Configured, AsyncConfigured])
    def test_configuration_comes_before_the_service_starts_running(self, cls: type) -> None:
        """`reconfigure` runs before `start_running`, and gets plain values that the service may keep and change."""
        service = self.deploy(cls, user_config={"limit": 1, "names": ["a"]})
        assert service.handle.look() == [{"limit": 1, "names": ["a"]}, "start_running"]

    @unless("in_callers_thread")
    @pytest.mark.parametrize("cls", [Configured, AsyncConfigured])
    def test_changed_configuration_reaches_the_replicas_that_run(self, cls: type) -> None:
        """A changed configuration reaches running replicas, none is replaced, and later replicas start with it."""
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
        """If a replica refuses a configuration, all go back to the old one, which later replicas get too."""
        several = self.several(2, "round_robin")
        service = self.deploy(Configured, user_config={"limit": 1}, **several)
        with pytest.raises(errors.DeployError, match="goes on with its old user_config") as caught:
            self.apply(service, Configured, user_config={"limit": -1}, **several)
        assert "limit -1" in str(caught.value)
        assert all(seen[-1] in ({"limit": 1}, "start_running") for seen in self.looks(service))
        service.env.restart(service.name)
        assert self.looks(service) == [[{"limit": 1}, "start_running"]] * 2

    def test_more_replicas_replace_none(self) -> None:
        """If only the number of replicas changes, `apply` replaces none."""
        service = self.deploy(Configured, **self.several(2))
        self.apply(service, Configured, **self.several(3))
        assert [replica["id"] for replica in service.status["replicas"]] == ["svc#0", "svc#1", "svc#2"]
        assert [each.action for each in service.env.plan().services] == ["keep"]
