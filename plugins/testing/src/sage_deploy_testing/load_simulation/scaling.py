"""Runs the autoscaler of a simulated service, with the load measured as `deployment.scaling` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sage_plugins.errors import PluginError, text_of
from sage_plugins.event_kinds import EventKind
from sage_plugins.interfaces import Load
from sage_plugins.resilience.autoscaling import AutoscaleSettings, Scaler
from sage_plugins.texts import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_deploy_testing.load_simulation.fleet import Fleet
    from sage_deploy_testing.load_simulation.results.tally import Tally
    from sage_deploy_testing.load_simulation.timeline import Timeline
    from sage_plugins.planning.composition import Composition
    from sage_plugins.routing.router import Router

__all__ = ["Scaling"]

#: As in `deployment.scaling.service_scaler`.
_LOOKS: Final = 10
_INTERVALS_S: Final = (0.05, 1.0)


class Scaling:
    """Measures the load repeatedly, and changes the number of replicas."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it is made of
        self,
        composition: Composition,
        timeline: Timeline,
        router: Router,
        fleet: Fleet,
        tally: Tally,
        balance: Callable[[], None],
    ) -> None:
        """
        Prepare the autoscaler. It measures nothing before `start`.

        Args:
            composition: The service, which has an autoscaler.
            timeline: Its clock.
            router: Its router.
            fleet: Its replicas.
            tally: Gets the decisions.
            balance: Gives the service a load balancer if it has none. Called before the second replica starts.

        Raises:
            PluginError: The autoscaler cannot be made.
        """
        choice = composition.autoscaler
        assert choice is not None
        settings = AutoscaleSettings.of(composition.config.autoscale or {})
        try:
            autoscaler = choice.create()
        except Exception as error:
            msg = f"autoscaler '{choice.id}' from {choice.source} cannot be made: {text_of(error)}"
            raise PluginError(msg) from error
        self._scaler = Scaler(settings, autoscaler.decide, choice.id)
        self._interval = min(max(settings.look_back / _LOOKS, _INTERVALS_S[0]), _INTERVALS_S[1])
        self._timeline = timeline
        self._router = router
        self._fleet = fleet
        self._tally = tally
        self._balance = balance
        self._number = 0  # of the next measurement
        self._busy = False  # while replicas start
        self._faulty = False
        router.on_unserved = self._look_soon

    @property
    def wanted(self) -> int:
        """Number of replicas that the service should have."""
        return self._scaler.wanted

    def start(self) -> None:
        """Start to measure."""
        self._scaler.wanted = len(self._fleet.places)
        self._set(self._interval)

    def _set(self, after: float) -> None:
        self._number += 1
        self._timeline.at(self._timeline.now + after, self._is_due, self._number)

    def _look_soon(self) -> None:
        if not self._busy:
            self._set(0.0)

    def _is_due(self, number: int) -> None:
        if number != self._number or self._busy:
            return
        self._look()
        if not self._busy:
            self._set(self._interval)

    def _look(self) -> None:
        load = self._load()
        try:
            scaling = self._scaler.look(load, self._tally.latest)
        except Exception as error:  # noqa: BLE001 - as in `ServiceScaler`: autoscalers are foreign code
            if not self._faulty:
                self._faulty = True
                self._tally.tell(EventKind.SCALING_FAILED, f"the autoscaler failed: {text_of(error)}")
            return
        self._faulty = False
        if scaling is None:
            return
        present, number = load.replicas, scaling.replicas
        self._tally.tell(EventKind.SCALED, f"from {present} to {counted(number, 'replica')}: {scaling.reason}")
        if number > present:
            self._busy = True
            if number > 1:
                self._balance()
            self._fleet.grow(number - present, self._grown)
        else:
            self._fleet.shrink(present - number, scaling.reason)
            self._scaler.succeeded()

    def _grown(self) -> None:
        self._busy = False
        self._scaler.succeeded()
        self._set(self._interval)

    def _load(self) -> Load:
        ready, router = self._fleet.ready, self._router
        return Load(
            time_s=self._timeline.now,
            replicas=len(self._fleet.places),
            ready=len(ready),
            slots=sum(lane.slots for lane in ready),
            ongoing=sum(lane.inflight for lane in ready),
            queued=router.waiting + router.parked,
            oldest_wait_s=router.oldest_wait(),
        )
