"""Under load and injected faults no call is lost, and a router that loses or repeats calls is detected."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from itertools import combinations

import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_process
import sage_deploy_threading
from sage_deploy_local.target import LocalTarget
from sage_deploy_testing.chaos import actions
from sage_deploy_testing.chaos.run import Setting, run
from sage_deploy_testing.chaos.run_log import RunLog, Up, is_alive, machine, note, started_at, up_line, up_path
from sage_deploy_testing.chaos.verdict import Verdict
from sage_plugins import ServiceDeploymentConfig, hookimpl
from sage_plugins.errors import CallError
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration

FIRST_PARTY = (
    sage_deploy_balancers,
    sage_deploy_local,
    sage_deploy_monitors,
    sage_deploy_process,
    sage_deploy_threading,
)

IN_PROCESS = {
    "pool": ServiceDeploymentConfig(
        threading_strategy="pool", thread_count=2, thread_pool_size=2, replicas=2, timeout=10.0, queue_size=50
    ),
    "async": ServiceDeploymentConfig(threading_strategy="async", timeout=10.0, batch_size=4, overload="reject"),
    "single": ServiceDeploymentConfig(timeout=10.0, queue_size=20, circuit_breaker={"failures": 5, "open": 1.0}),
}
IN_CHILDREN = {
    "many": ServiceDeploymentConfig(
        target="process",
        threading_strategy="pool",
        thread_count=2,
        thread_pool_size=2,
        replicas=3,
        failover_enabled=True,
        timeout=10.0,
    ),
    "one": ServiceDeploymentConfig(target="process", timeout=10.0, timeout_strength="kill"),
}


def registry(*registrations):
    class Plugin:
        @hookimpl
        def sage_register_targets(self):
            return list(registrations)

    return Registry.of(*FIRST_PARTY, Plugin())


def judge(seconds, services, *, targets=(), over=None, **setting):
    setting = {"slack": 20.0, "recovery": 60.0, "every": 0.4, "kill_every": 2.0, "seed": 1, **setting}
    whole = Setting(services=services, seconds=seconds, **setting)
    return Verdict.of(run(whole, registry=registry(*targets), over=over))


def assert_clean(verdict):
    assert verdict.is_clean, "\n".join(verdict.lines())


def check_in_process(seconds, seed):
    verdict = judge(seconds, IN_PROCESS, seed=seed)
    assert_clean(verdict)
    assert verdict.outcomes["ok"] > 100
    assert set(verdict.impossible) == {"kill", "stop", "crash", "node", "caller"}
    return verdict


def check_in_children(seconds, seed):
    verdict = judge(seconds, IN_CHILDREN, seed=seed)
    assert_clean(verdict)
    assert verdict.deaths >= 2
    assert set(verdict.impossible) == {"node"}
    return verdict


def test_calls_in_this_process_survive_accidents():
    check_in_process(15, seed=1)


def test_calls_to_child_processes_survive_accidents():
    """Calls to child processes end correctly although the processes are killed and suspended."""
    check_in_children(12, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("check", [check_in_process, check_in_children])
def test_calls_survive_minutes_of_accidents(check):
    check(180, seed=2)


# -- pairs of accidents ------------------------------------------------------------------------------------------------


def pairs_of(*names, monkeypatch, recovery=60.0, **doing):
    """Run every pair of these actions against a service in this process. *doing* replaces actions."""
    for name, do in doing.items():
        monkeypatch.setitem(actions.ACTIONS, name, actions.Action(do))
    service = ServiceDeploymentConfig(timeout=5.0)
    return judge(0.05, {"svc": service}, actions=names, recovery=recovery, pairs=True)


def test_calls_to_child_processes_survive_each_pair_of_accidents():
    """Every pair of actions runs to its end: each action finds the replicas that the other one has changed."""
    names = ("kill", "scale", "restart")
    services = {"many": IN_CHILDREN["many"]}
    verdict = judge(0.2, services, shapes=("plain", "async"), actions=names, pairs=True)
    assert_clean(verdict)
    assert {tuple(sorted(each["actions"])) for each in verdict.pairs} == set(combinations(sorted(names), 2))
    assert [each["missed"] for each in verdict.pairs] == [[]] * 3
    assert verdict.done == dict.fromkeys(names, 2)
    assert "pairs      3 of 3" in verdict.lines()


def test_both_of_a_pair_happen_at_the_same_time(monkeypatch):
    """The two actions of a pair run at the same time."""
    together = threading.Barrier(2)

    def meet(*_):
        together.wait(10)
        return "met"

    verdict = pairs_of("slow", "raise", monkeypatch=monkeypatch, **{"slow": meet, "raise": meet})
    assert verdict.refused == {}
    assert verdict.seconds == 0.05


def test_accident_that_never_finds_a_replica_is_missed_in_its_pairs(monkeypatch):
    """An action that never finds a replica is listed as missed in each of its pairs."""
    verdict = pairs_of("slow", "raise", "exit", monkeypatch=monkeypatch, recovery=1.0, slow=lambda *_: None)
    assert sorted(tuple(each["missed"]) for each in verdict.pairs) == [(), ("slow",), ("slow",)]
    said = [line for line in verdict.lines() if line.startswith(("pairs", "not paired"))]
    assert said[0] == "pairs      1 of 3"
    assert sorted(said[1:]) == [
        "not paired slow and exit to svc: slow was refused or found no replica",
        "not paired slow and raise to svc: slow was refused or found no replica",
    ]


def test_accident_that_is_refused_is_missed_in_its_pair(monkeypatch):
    """An action that raises is listed as missed in its pair, with its reason."""

    def refuse(*_):
        raise CallError("not now")

    verdict = pairs_of("slow", "raise", monkeypatch=monkeypatch, slow=refuse)
    assert [each["missed"] for each in verdict.pairs] == [["slow"]]
    assert (verdict.refused, verdict.why_refused) == ({"slow": 1}, {"slow": "CallError: not now"})


def test_pairs_of_a_run_that_is_ended_early_are_interrupted(monkeypatch):
    """Ending the run early skips the remaining pairs, and the verdict is marked as interrupted."""
    over = threading.Event()

    def end(*_):
        over.set()
        return "ended"

    for name in ("slow", "raise"):  # the action is then in each pair
        monkeypatch.setitem(actions.ACTIONS, name, actions.Action(end))
    verdict = judge(600, {"svc": ServiceDeploymentConfig()}, actions=("slow", "raise", "exit"), pairs=True, over=over)
    assert verdict.interrupted
    assert len(verdict.pairs) < 3


# -- a router that is broken on purpose --------------------------------------------------------------------------------


class TwiceFactory:
    """Builds instances that run each tenth call twice, like a router that sends a call to two replicas."""

    def __init__(self, factory):
        self._factory = factory
        self._calls = 0

    def create_service(self, ctx):
        instance = self._factory.create_service(ctx)
        work = instance.work

        def twice(*arguments):
            self._calls += 1
            if self._calls % 10 == 0:
                work(*arguments)
            return work(*arguments)

        instance.work = twice
        return instance


class Broken(LocalTarget):
    """A target whose replicas break one rule."""

    way = ""

    def start(self, spec, at, events, clock):
        if self.way == "twice":
            spec = spec._replace(factory=TwiceFactory(spec.factory))
        replica = super().start(spec, at, events, clock)
        if self.way == "lost":
            send, numbers = replica.send, iter(range(10**9))

            def lose(work):
                if work.options.idempotent and next(numbers) % 2 == 1 and work.claim() and work.claim_outcome():
                    events.freed(work)  # and nobody publishes the outcome
                else:
                    send(work)

            replica.send = lose
        return replica


@pytest.mark.parametrize(("way", "rule"), [("twice", "twice"), ("lost", "lost")])
def test_router_that_is_broken_is_found_out(way, rule):
    """A router that runs calls twice or loses them gets a verdict with that violation."""
    target = type("Target", (Broken,), {"way": way})
    service = ServiceDeploymentConfig(
        target="broken", threading_strategy="pool", thread_count=2, timeout=0.5, drain_timeout=0.1
    )
    verdict = judge(
        2,
        {"svc": service},
        targets=[Registration("broken", lambda _: target(), "wrong", capabilities=frozenset({"in_process"}))],
        actions=(),
        shapes=("plain",),
        slack=1.0,
        recovery=0.5,
    )
    assert verdict.broken[rule] > 0
    assert {rule for rule, number in verdict.broken.items() if number} <= {rule, "stuck", "not_whole"}


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_who_sets_the_event_ends_the_accidents_and_gets_a_verdict():
    """Setting the event ends the run early, with a verdict."""
    over = threading.Event()
    over.set()
    verdict = judge(600, {"svc": ServiceDeploymentConfig()}, over=over)
    assert_clean(verdict)
    assert verdict.interrupted


class Ready:
    """An environment whose replicas are all ready."""

    def overview(self):
        return {"svc": {"replicas": [{"id": f"svc#{position}", "state": "ready"} for position in range(4)]}}


def test_only_processes_of_replicas_are_signalled(tmp_path, monkeypatch):
    """Only processes of current replicas on this machine are signalled, and never this process."""
    witness = RunLog(tmp_path / "witness")
    file = up_path(witness.path)
    note(file, up_line("svc", 0))  # in this process
    parent, started = os.getppid(), started_at(os.getppid())
    note(file, f"svc 1 {parent} {started} elsewhere/pid:[1]")
    note(file, f"svc 2 {parent} 1 {machine()}")
    note(file, f"other 3 {parent} {started} {machine()}")
    world = actions.World(Ready(), {}, None, witness, None, threading.Event())
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("signalled"))

    assert world.processes("svc") == []
    for name in ("kill", "stop", "crash"):
        assert actions.ACTIONS[name].do(world, "svc", None) is None

    note(file, f"svc 3 {parent} {started} {machine()}")
    assert [up.position for up in world.processes("svc")] == [3]


def test_process_that_has_ended_is_not_alive():
    """A process that has ended is not alive, even as a zombie."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        up = Up("svc", 0, process.pid, started_at(process.pid), machine())
        assert is_alive(up)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie: its parent has not waited for it
        assert not is_alive(up)
    assert not is_alive(up)
