"""Replicas can outlive their environment; the next environment of that name takes them over."""

from __future__ import annotations

import pickle
import time
from functools import cached_property
from pathlib import Path

import attrs
import pytest

import keeping_target
import sage_deploy_autoscalers
import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_remote.reach import publishing
from sage_deploy_testing.cases.adoption_cases import AdoptionCases
from sage_deploy_testing.tools.checkpoints import Switchboard
from sage_plugins import ServiceDeploymentConfig, hookimpl
from sage_plugins.errors import CallError, ConfigError, DeployError, ServiceNotFoundError, ServiceStoppedError
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import EnvironmentOptions, Registration


def registry(plugin):
    ours = (sage_deploy_autoscalers, sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors)
    return Registry.of(*ours, sage_deploy_threading, plugin)


class Service:
    """Counts its calls, so replicas can be told apart. Fails to start if the file *unless* exists."""

    def __init__(self, unless=""):
        if unless and Path(unless).exists():
            raise OSError("no place on the disk")
        self._calls = 0

    def count(self):
        self._calls += 1
        return self._calls

    def hold(self, checkpoint):
        checkpoint.reach(None)
        return "let go"


@pytest.fixture
def watch():
    """A place in a method that holds each call that reaches it."""
    with Switchboard(10.0) as board:
        yield board.watch()


@pytest.fixture
def plugin():
    plugin = keeping_target.Plugin()
    yield plugin
    plugin.world.stop()


@pytest.fixture
def make(environments, plugin):
    """Makes an environment with the service registered. All environments have the same name."""

    def make(cls=Service, args=(), *, registers=True, **fields):
        env = environments("shop", registry=registry(plugin))
        if registers:
            config = ServiceDeploymentConfig(**{"target": "keeping"} | fields)
            env.register_service_with_config("svc", cls, *args, deployment_config=config)
        return env

    return make


class TestKeeping(AdoptionCases):
    """Runs the suite for all targets that keep replicas, with this one."""

    plugin_id = target = "keeping"
    kind = "target"
    strategy = "single"

    @cached_property
    def plugins(self):
        return registry(keeping_target.Plugin())

    def registry(self):
        return self.plugins


def ids(env):
    return [each["id"] for each in env.get_service_status("svc")["replicas"]]


def test_closing_leaves_the_replicas_and_the_first_call_takes_them_over(make):
    """`close` leaves the replicas running, and the first call of the next environment takes them over."""
    first = make()
    assert first.service("svc").count() == 1
    first.close()

    second = make()

    assert second.service("svc").count() == 2


def test_service_without_replicas_is_taken_over_with_one(make, until):
    """A service at zero replicas is taken over with one replica, and then scales to zero again."""
    autoscale = {"min": 0, "max": 2, "scale_to_zero_delay": 0.2, "look_back": 0.1}
    first = make(autoscale=autoscale)
    first.deploy()
    until(lambda: ids(first) == [])
    first.close()
    second = make(autoscale=autoscale)
    second.deploy()
    assert second.service("svc").count() == 1
    until(lambda: ids(second) == [])


def test_replicas_that_load_has_brought_are_taken_over(make):
    """Replicas that `scale` added are taken over, whatever `initial` says."""
    first = make(autoscale={"max": 3})
    first.deploy()
    first.scale("svc", 3)
    first.close()
    second = make(autoscale={"max": 3})
    second.deploy()
    assert ids(second) == ["svc#0", "svc#1", "svc#2"]
    assert second.get_service_status("svc")["autoscale"]["wanted"] == 3


def test_draining_stops_them(make, plugin):
    """`drain` stops replicas that would outlive their environment."""
    env = make()
    env.deploy()
    env.drain("svc")
    assert plugin.world.running == {"svc": {}}


def test_others_see_nothing_of_a_closing(make, plugin):
    """Closing an environment changes nothing in what other processes see of its services."""
    env = make()
    env.deploy()
    env.scale("svc", 3)
    before = plugin.world.book.listings["svc"]
    env.close()
    assert plugin.world.book.listings["svc"] is before
    assert (before.places, len(before.replicas), before.stopped) == (3, 3, "")


def test_what_is_said_later_is_newer_in_whatever_process():
    """Each published version is newer than the last, even if another process's clock was ahead."""
    before = time.time_ns()
    assert publishing._VERSIONS.next() >= before
    later = time.time_ns() + 10**12
    assert publishing._Versions().next(later) == later + 1


def test_environment_that_takes_over_is_newer_than_one_that_was_made_later(make, plugin):
    """An environment that takes a service over publishes newer versions than a later-made one that closed."""
    older, newer = make(), make()
    older.task("svc")
    newer.deploy()
    plugin.world.book.listings["svc"] = before = plugin.world.book.listings["svc"]._replace(version=10**20)
    newer.close()
    older.deploy()
    after = plugin.world.book.listings["svc"]
    assert after.incarnation > before.incarnation
    assert after.version > before.version


def test_closed_environment_refuses_calls_of_what_goes_on(make):
    """A closed environment refuses calls of a service that goes on without it."""
    env = make()
    handle = env.service("svc")
    handle.count()
    env.close()
    with pytest.raises(ServiceStoppedError):
        handle.count()


def test_closing_waits_for_calls_from_here(make, watch, in_thread):
    """`close` waits for calls that this process has made."""
    env = make()
    call = env.service("svc").submit("hold", watch.checkpoint)
    watch.wait()
    closing = in_thread(env.close)
    watch.open()
    closing.result()
    assert call.result() == "let go"


def test_call_that_outlasts_the_closing_ends_and_its_method_goes_on(make, watch):
    """A call that outlasts `close` ends with ServiceStoppedError, while its method runs on."""
    env = make(threading_strategy="multi", thread_count=2)
    call = env.service("svc").submit("hold", watch.checkpoint)
    watch.wait()
    env.close(drain_timeout=0)
    with pytest.raises(ServiceStoppedError, match="still running and may have had its effect"):
        call.result()

    second = make(threading_strategy="multi", thread_count=2)
    assert second.service("svc").count() == 1
    watch.open()


def test_what_is_missing_is_started(make, plugin):
    """A missing replica is started at the next deployment, with the same index and the next generation."""
    env = make(replicas=3, load_balancing=True)
    env.deploy()
    env.close()
    plugin.world.running["svc"].pop((1, 0)).server.stop(1)

    env = make(replicas=3, load_balancing=True)
    env.deploy()

    assert ids(env) == ["svc#0", "svc#1", "svc#2"]
    assert sorted(plugin.world.running["svc"]) == [(0, 0), (1, 0), (2, 0)]


def test_start_that_fails_leaves_what_was_there(make, plugin, tmp_path):
    """
    If a missing replica does not start, the deployment fails and leaves the others running.

    They can be taken over again.
    """
    obstacle = tmp_path / "full"
    env = make(args=(str(obstacle),), replicas=2, load_balancing=True)
    env.deploy()
    env.close()
    plugin.world.running["svc"].pop((1, 0)).server.stop(1)
    obstacle.touch()

    env = make(args=(str(obstacle),), replicas=2, load_balancing=True)
    with pytest.raises(DeployError, match="no place on the disk"):
        env.deploy()
    assert list(plugin.world.running["svc"]) == [(0, 0)]
    assert plugin.world.holder is None

    obstacle.unlink()
    env.deploy()
    assert ids(env) == ["svc#0", "svc#1"]


def test_replica_that_was_taken_over_is_replaced_like_any_other(make, plugin):
    """A replica that was taken over can be restarted, and its successor outlives the environment too."""
    env = make()
    env.deploy()
    env.close()
    env = make()
    env.deploy()

    env.restart("svc")

    assert ids(env) == ["svc#0.1"]
    env.close()
    env = make()
    env.deploy()
    assert ids(env) == ["svc#0.1"]
    assert list(plugin.world.running["svc"]) == [(0, 1)]


def test_scaling_and_balancer_are_as_they_were_left(make):
    """A service that is taken over keeps the number of replicas and the balancer it was left with."""
    env = make(replicas=2, load_balancing=True)
    env.deploy()
    env.scale("svc", 3)
    env.set_load_balancer("svc", "random")
    env.close()

    env = make(replicas=2, load_balancing=True)
    env.deploy()

    assert len(ids(env)) == 3
    assert env.running()["svc"]["replicas"] == 3
    assert env.running()["svc"]["load_balancer"] == "random"


def test_other_settings_and_other_arguments_are_refused_and_adopt_takes_what_runs(make):
    """`deploy` refuses to take over a service with other settings or arguments. `adopt` takes it over as it is."""
    env = make(args=("a",))
    env.deploy()
    env.service("svc").count()
    env.close()

    for other in (make(args=("b",)), make(args=("a",), timeout=5.0)):
        with pytest.raises(DeployError, match=r"with other settings: .* here.*adopt\(\)"):
            other.deploy()
        assert other.adopt() == ["svc"]
        assert other.service("svc").count() > 1
        other.close()


def test_apply_after_adopt_replaces_what_runs(make, plugin):
    """`apply` after `adopt` makes the running service match the configuration."""
    env = make()
    env.deploy()
    env.service("svc").count()
    env.close()

    env = make(timeout=5.0)
    env.adopt()
    env.apply()

    assert env.get_service_status("svc")["deployment_config"].timeout == 5.0
    assert env.service("svc").count() == 1
    assert len(plugin.world.running["svc"]) == 1


def test_adopting_needs_no_registration_and_finds_nothing_where_nothing_is(make):
    """`adopt` needs no registration and finds nothing if nothing runs."""
    assert make(registers=False).adopt() == []
    env = make()
    env.deploy()
    assert env.adopt() == ["svc"]
    env.close()

    env = make(registers=False)
    assert env.adopt() == ["svc"]
    assert env.service("svc").count() == 1


def test_two_at_once_may_call_and_only_one_may_change(make):
    """Two environments can call a service at the same time, but only the one that has it can change it."""
    env = make()
    env.deploy()
    other = make(registers=False)

    assert other.service("svc").count() == 1
    for change in (lambda: other.scale("svc", 2), lambda: other.task("svc")):
        with pytest.raises(ServiceNotFoundError, match=r"taken over with `adopt\(\)`"):
            change()
    with pytest.raises(DeployError, match="another one has it"):
        other.adopt()
    assert env.service("svc").count() == 2


def test_targets_whose_replicas_end_with_them_have_nothing_to_adopt(environments):
    """`adopt` is a ConfigError if the target's replicas end with their process."""
    env = environments("shop", registry=Registry.of(sage_deploy_local, sage_deploy_threading, sage_deploy_monitors))
    with pytest.raises(ConfigError, match="end with the process that deploys them"):
        env.adopt()


@attrs.frozen
class Options:
    """Options of an environment."""

    folder: str = ""


class Choosy(keeping_target.Plugin):
    """Registers `keeping` with environment options, and notes when it is made; and another target with options."""

    def __init__(self):
        super().__init__()
        self.made = []

    def create(self, _, options):
        self.made.append(options)
        return keeping_target.KeepingTarget(self.world)

    @hookimpl
    def sage_register_targets(self):
        kept, other = (EnvironmentOptions(each, lambda: Options, "A folder") for each in ("kept", "other"))
        can = frozenset({"reachable", "detaches"})
        return [
            Registration("keeping", self.create, "It stays", environment_options=kept, capabilities=can),
            Registration("other", self.create, "It ends", environment_options=other),
        ]


def test_target_is_not_made_to_look_for_services_unless_the_environment_has_its_options(environments):
    """A status makes a target that could keep services only if the environment has options of that target."""
    plugin = Choosy()
    environments("shop", registry=registry(plugin), options={"other": {"folder": "x"}}).status()
    assert plugin.made == []
    environments("shop", registry=registry(plugin), options={"kept": {"folder": "x"}}).status()
    assert plugin.made == [Options("x")]


def test_services_that_stay_do_not_find_one_that_ends_with_this_process(make, plugin):
    """
    A service that outlives this process cannot find one that ends with it, and a handle to that one cannot be pickled.
    """
    env = make()
    env.register_service("home", Service)
    env.deploy()
    assert {name: known.reachable for name, known in plugin.world.book.known.items()} == {"svc": True, "home": False}
    assert "home" not in plugin.world.book.listings
    with pytest.raises(CallError, match="the handle to 'home' cannot be pickled"):
        pickle.dumps(env.service("home"))
