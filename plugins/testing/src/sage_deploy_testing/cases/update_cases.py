"""The rules for `apply` of a changed configuration: a rolling update, or a rollback to the old version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sage_deploy_testing.cases.loaded_cases import LoadedCases
from sage_deploy_testing.suites.probes import Probe, ProbeError
from sage_plugins import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sage_deploy_testing.suites.service_conformance import Deployed

__all__ = ["UpdateCases"]


class Versioned(Probe):
    """Returns its version. One replica of it may fail to build, or never become ready."""

    def __init__(self, version: int, broken: int | None = None, unready: str | None = None) -> None:
        super().__init__()
        if broken == self.ctx.replica_index:
            msg = f"version {version} is broken"
            raise ProbeError(msg)
        self._version = version
        self._unready = unready

    def check_ready(self) -> bool:
        return self._unready is None or not Path(self._unready).exists()

    def version(self) -> int:
        return self._version


def _ids(service: Deployed) -> list[str]:
    return [replica["id"] for replica in service.status["replicas"]]


class UpdateCases(LoadedCases):
    """These rules hold on every target and strategy. `load` counts every call, and none may fail."""

    def update(self, service: Deployed, *args: Any, settings: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Apply these constructor arguments and this configuration to the service."""
        config = self.configuration(update=settings, **fields)
        service.env.register_service_with_config(service.name, Versioned, *args, deployment_config=config)
        service.env.apply()

    def versions(self, service: Deployed) -> set[int]:
        """Return the versions that answer."""
        return {service.handle.version() for _ in range(8)}

    def rolls(self, service: Deployed) -> list[str]:
        """Return the kinds of the events about updates."""
        return [event.kind for _, _, event in service.env.events(0) if "roll" in event.kind]

    @pytest.mark.parametrize("settings", [None, {"max_surge": 0, "max_unavailable": 1}, {"max_surge": 3}])
    def test_no_call_fails_while_one_version_follows_the_other(self, settings: Mapping[str, int] | None) -> None:
        """No call fails in an update: one by one, all at once, or without surge. The router and its handles go on."""
        several = self.several(2, "round_robin")
        service = self.deploy(Versioned, 1, update=settings, **several)
        with self.load(service) as wait:
            for version in (2, 3):
                self.update(service, version, settings=settings, **several)
                wait(10)
        assert self.versions(service) == {3}
        assert _ids(service) == ["svc#0.2", "svc#1.2"]
        assert self.rolls(service) == ["roll_started", "roll_progress", "roll_progress", "roll_done"] * 2
        assert [each.action for each in service.env.plan().services] == ["keep"]

    def test_a_replica_that_drains_holds_up_nobody(self) -> None:
        """A draining replica does not count as surge: the others are replaced while it finishes its calls."""
        several = self.several(2, "round_robin")
        service = self.deploy(Versioned, 1, **several)
        gate = self.watch()
        calls = [self.begin(service.handle, "hold", gate.checkpoint) for _ in range(service.slots)]
        gate.wait(len(calls))
        updating = self.in_thread(self.update, service, 2, **several)
        self.until(lambda: self.rolls(service).count("roll_progress") == 2)
        assert self.versions(service) == {2}
        assert not updating.done()
        gate.open()
        for call in calls:
            call.result(self.patience)
        updating.result(self.patience)
        assert _ids(service) == ["svc#0.1", "svc#1.1"]

    @pytest.mark.parametrize("broken", [0, 1])
    def test_a_version_that_cannot_be_built_is_rolled_back(self, broken: int) -> None:
        """If a new replica fails, also after others were replaced, all replicas have the old version again."""
        several = self.several(2, "round_robin")
        service = self.deploy(Versioned, 1, **several)
        with self.load(service) as wait:
            with pytest.raises(errors.DeployError, match=r"was rolled back.*version 2 is broken") as caught:
                self.update(service, 2, broken, **several)
            wait(10)
        assert caught.value.replica == f"svc#{broken}.1"
        assert isinstance(caught.value.__cause__, ProbeError)
        assert self.versions(service) == {1}
        assert service.status["health"] == {"healthy": True, "ready": 2, "replicas": 2}
        assert self.rolls(service)[-1] == "rolled_back"
        self.update(service, 3, **several)
        assert self.versions(service) == {3}

    def test_a_version_that_does_not_say_that_it_is_ready_is_rolled_back(self, tmp_path: Path) -> None:
        """A version whose `check_ready` stays False is rolled back after `progress_deadline`, even without monitors."""
        unready = tmp_path / "unready"
        unready.touch()
        service = self.deploy(Versioned, 1, startup_timeout=self.patience)
        settings = {"progress_deadline": self.starting}
        with pytest.raises(errors.DeployError, match=r"was rolled back.*svc#0\.1 not ready after .*check_ready"):
            self.update(service, 2, None, str(unready), settings=settings, startup_timeout=self.patience)
        assert (self.versions(service), _ids(service)) == ({1}, ["svc#0"])
        unready.unlink()
        self.update(service, 2, None, str(unready), settings=settings, startup_timeout=self.patience)
        assert self.versions(service) == {2}

    def test_without_auto_rollback_an_update_stops_where_it_is(self) -> None:
        """Without `auto_rollback`, an update stops. The error says how far it came, and a later update continues."""
        several = self.several(2, "round_robin")
        service = self.deploy(Versioned, 1, **several)
        with pytest.raises(errors.DeployError, match=r"auto_rollback is false, and 1 of 2 replicas"):
            self.update(service, 2, 1, settings={"auto_rollback": False}, **several)
        assert self.versions(service) == {1, 2}
        assert [each.action for each in service.env.plan().services] == ["change"]
        self.update(service, 3, **several)
        assert self.versions(service) == {3}

    def test_more_replicas_and_a_new_version_together(self) -> None:
        """If number and version change together, running replicas are replaced first, then new ones are added."""
        service = self.deploy(Versioned, 1, **self.several(1, "round_robin"))
        self.update(service, 2, **self.several(3, "round_robin"))
        assert self.versions(service) == {2}
        assert _ids(service) == ["svc#0.1", "svc#1", "svc#2"]
