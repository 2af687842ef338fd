"""
The rules for every autoscaler, as cases in virtual time.

An autoscaler's own tests inherit them:

    from sage_deploy_testing.suites.autoscaler_conformance import AutoscalerConformance

    class TestMine(AutoscalerConformance):
        plugin_id = "mine"
        options = {"busy": 0.5}
"""

from __future__ import annotations

import pickle
from math import isfinite
from typing import TYPE_CHECKING, ClassVar, Final

from sage_deploy_testing.suites.conformance import Conformance
from sage_deploy_testing.suites.recipe import make, recipe
from sage_plugins.interfaces import Load
from sage_plugins.resilience.autoscaling import AutoscaleSettings, Scaler

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sage_plugins.interfaces import Autoscaler

__all__ = ["AutoscalerConformance"]

_BOUNDS: Final = {"min": 1, "max": 20}
#: Seconds between two measurements of the load.
_LOOK_S: Final = 1.0


def _load(time_s: float, replicas: int, calls: int, slots: int = 2) -> Load:
    ongoing = min(calls, replicas * slots)
    return Load(
        time_s=time_s,
        replicas=replicas,
        ready=replicas,
        slots=replicas * slots,
        ongoing=ongoing,
        queued=calls - ongoing,
        mean_calls=float(calls),
    )


class AutoscalerConformance(Conformance):
    """
    The rules that a service can rely on, whichever autoscaler decides.

    Inherit it in a class whose name begins with `Test`, and set `plugin_id`.
    """

    kind: ClassVar[str] = "autoscaler"
    known: ClassVar[Mapping[str, str]] = {}

    def autoscaler(self) -> Autoscaler:
        """Return a new autoscaler, as a service gets it."""
        made: Autoscaler = make(self)
        return made

    @staticmethod
    def _loads() -> Iterator[Load]:
        """Yield loads of all kinds, with starting replicas, long waits and many replicas among them."""
        for replicas in (1, 2, 7, 100, 10_000):
            for calls in (0, 1, 3, 50, 100_000):
                yield _load(1000.0 + calls, replicas, calls)
                yield _load(1000.0 + calls, replicas, calls)._replace(ready=0, slots=0, ongoing=0, queued=calls)
                yield _load(1000.0 + calls, replicas, calls)._replace(oldest_wait_s=9.0, target_queue_wait=0.1)

    def _settles(self, calls: int, initial: int) -> tuple[int, list[int]]:
        """Hold a load for an hour under the core's rules. Return the last number and the changes of the second half."""
        settings = AutoscaleSettings.of(_BOUNDS | {"initial": initial, "upscale_delay": 2, "downscale_delay": 5})
        scaler = Scaler(settings, self.autoscaler().decide, self.plugin_id)
        replicas, late = initial, []
        for second in range(3600):
            decision = scaler.look(_load(second * _LOOK_S, replicas, calls))
            if decision is not None:
                replicas = decision.replicas
                late += [replicas] if second > 1800 else []
        return replicas, late

    # -- cases -------------------------------------------------------------------------------------------------------

    def test_answer_is_a_number_of_replicas(self) -> None:
        """The autoscaler answers each load with a finite number that is 0 or more."""
        autoscaler = self.autoscaler()
        for load in self._loads():
            answer = autoscaler.decide(load)
            assert isinstance(answer, (int, float)), f"for {load} it gave {answer!r}"
            assert isfinite(answer), f"for {load} it gave {answer!r}"
            assert answer >= 0, f"for {load} it gave {answer!r}"

    def test_same_loads_get_the_same_answers(self) -> None:
        """Two autoscalers give the same answers to the same loads: neither chance nor the wall clock decides."""
        first, second = self.autoscaler(), self.autoscaler()
        for load in self._loads():
            assert first.decide(load) == second.decide(load), f"it differs for {load}"

    def test_number_stays_within_the_bounds(self) -> None:
        """Under the core's rules, the number of replicas stays within its limits, for any first number and any load."""
        for calls in (0, 1, 10, 1000):
            for initial in (1, 20):
                replicas, _ = self._settles(calls, initial)
                assert _BOUNDS["min"] <= replicas <= _BOUNDS["max"]

    def test_steady_load_changes_nothing_in_the_end(self) -> None:
        """Under a constant load, the number of replicas does not change after the first half hour."""
        for calls in (0, 1, 2, 3, 7, 11, 24, 1000):
            for initial in (1, 5, 20):
                replicas, late = self._settles(calls, initial)
                assert not late, f"for {calls} calls the number goes on changing: {late[:10]}, at last {replicas}"

    def test_more_calls_never_get_fewer_replicas(self) -> None:
        """A higher constant load gets at least as many replicas as a lower one."""
        numbers = [self._settles(calls, 1)[0] for calls in (0, 2, 8, 30, 1000)]
        assert numbers == sorted(numbers), f"for 0, 2, 8, 30 and 1000 calls it had {numbers}"

    def test_it_can_be_made_elsewhere(self) -> None:
        """The autoscaler's `create` and its options can be pickled by name."""
        create, options = pickle.loads(pickle.dumps(recipe(self)))  # noqa: S301 - our own
        assert isfinite(create(options).decide(_load(1000.0, 2, 3)))
