"""Slips in the scenario of a simulation: they are refused, or the report says that a fault had no effect."""

from __future__ import annotations

import pytest

from sage_deploy_testing.load_simulation.scenario.spelling import time_of_method
from sage_deploy_testing.simulation import constant, simulate


def faults_told(*, replicas: int = 2, **fault: object) -> list[str]:
    """Return what the events say about *fault*, in ten seconds with *replicas*."""
    with simulate({"replicas": replicas}) as sim:
        sim.time("get", 0.01)
        sim.load(rate=10, until=10)
        sim.fault(**fault)
        return [event.reason for event in sim.run().events if event.kind == "fault"]


@pytest.mark.parametrize("kind", ["crash", "slow", "hang", "drop"])
def test_a_fault_of_a_replica_that_is_not_there_is_told(kind: str) -> None:
    """A fault that names a replica that does not exist has no effect, and the events say so."""
    (told,) = faults_told(kind=kind, at=3, replica=7)
    assert told.endswith("replica 7 at 3s: no effect, there is no replica 7")


def test_a_fault_without_a_ready_replica_is_told() -> None:
    """A fault of a random replica has no effect while none is ready, and the events say so."""
    with simulate({"replicas": 1}, startup=5) as sim:
        sim.time("get", 0.01)
        sim.load(rate=10, until=10)
        sim.fault("crash", at=3)
        sim.fault("crash", at=4)
        told = [event.reason for event in sim.run().events if event.kind == "fault"]
    assert told == ["crash at 3s", "crash at 4s: no effect, no replica is ready"]


@pytest.mark.parametrize("fault", [{"kind": "crash", "replica": 1}, {"kind": "drop"}, {"kind": "node", "node": 0}])
def test_a_fault_with_effect_is_told_as_it_is(fault: dict[str, object]) -> None:
    """A fault with an effect has its plain text in the events."""
    (told,) = faults_told(at=3, **fault)
    assert told.endswith("at 3s")


def test_a_fault_after_the_last_call_is_refused() -> None:
    """A fault that begins when no more calls come is refused, because it would test nothing."""
    with pytest.raises(ValueError, match="'crash at 10s': calls come only until 10 s; let it begin earlier"):
        faults_told(kind="crash", at=10)


@pytest.mark.parametrize(("text", "method"), [("12ms", "*"), ("get=0.012", "get"), ("get = constant(12ms)", "get")])
def test_a_time_can_be_a_plain_duration(text: str, method: str) -> None:
    """On the command line, a method's time can be a plain duration, as in Python."""
    found, time = time_of_method(text)
    assert (found, time.text, time.mean) == (method, constant(0.012).text, 0.012)
