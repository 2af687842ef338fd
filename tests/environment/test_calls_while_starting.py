"""Constructors and start hooks may call services. Those that wait for each other fail the deployment at once."""

from __future__ import annotations

import threading

import pytest

from sage_plugins import (
    ServiceDeploymentConfig,
    errors,
)

PATIENCE = 20.0


@pytest.mark.parametrize("first", ["front", "back"])
@pytest.mark.parametrize("lazily", [False, True])
def test_constructors_may_call_services(env, strategy, first, lazily):
    """A constructor can call another service, whether that was registered before or after."""

    class Front:
        def __init__(self):
            self.word = self.ctx.service("back").word()

        def get(self):
            return self.word

    class Back:
        def word(self):
            return "from the other"

    classes = {"front": Front, "back": Back}
    for name in sorted(classes, key=lambda name: name != first):
        config = ServiceDeploymentConfig(threading_strategy=strategy)
        env.register_service_with_config(name, classes[name], deployment_config=config)
    if not lazily:
        env.deploy()
    assert env.service("front").get() == "from the other"


class Early:
    """Calls another service in the hook *hook*; *waits* says how."""

    def __init__(self, hook, waits, other):
        self.hook, self.waits, self.other, self.notes = hook, waits, other, []
        self._come_to("__init__")

    def _come_to(self, hook):
        if hook == self.hook:
            handle = self.ctx.service(self.other)
            if self.waits == "call":
                handle.note(hook)
            elif self.waits == "result":
                handle.submit("note", hook).result()
            elif self.waits == "stream":
                list(handle.stream("notes_one_by_one"))
            elif self.waits == "submit":
                handle.submit("note", hook)

    def setup(self):
        self._come_to("setup")

    async def start_running(self):
        if self.hook == "start_running":
            handle = self.ctx.service(self.other)
            await (handle.acall("note", "start_running") if self.waits == "call" else self._never())

    async def _never(self):
        raise AssertionError

    def warmup(self):
        self._come_to("warmup")

    def note(self, value):
        self.notes.append(value)

    def notes_one_by_one(self):
        yield from self.notes

    def read(self):
        return self.notes


def early(env, strategy, hook, waits, circle):
    """Register the services of *circle*. Each calls the next one in its hook *hook*."""
    config = ServiceDeploymentConfig(threading_strategy=strategy, startup_timeout=PATIENCE, timeout=PATIENCE)
    for name, other in zip(circle, [*circle[1:], circle[0]], strict=True):
        env.register_service_with_config(name, Early, hook, waits, other, deployment_config=config)


@pytest.mark.parametrize("circle", [["svc-a"], ["svc-a", "svc-b"], ["svc-a", "svc-b", "svc-c"]], ids=len)
@pytest.mark.parametrize(
    ("hook", "waits"),
    [
        ("__init__", "call"),
        ("setup", "call"),
        ("setup", "result"),
        ("setup", "stream"),
        ("start_running", "call"),
        ("warmup", "call"),
    ],
)
def test_start_hooks_that_wait_for_each_other_are_told_so_at_once(env, strategy, hook, waits, circle):
    """Start hooks that wait for each other fail the deployment at once, not after a timeout."""
    early(env, strategy, hook, waits, circle)
    with pytest.raises(errors.DeployError, match=r"never start: a replica gets no calls before its start hooks"):
        env.deploy()


def test_first_service_that_fails_ends_the_deployment(env):
    """The first service that fails ends the deployment, even while another one still starts."""
    gate = threading.Event()

    class Slow:
        def setup(self):
            gate.wait(PATIENCE)

    class Fails:
        def setup(self):
            raise LookupError("no database")

    config = ServiceDeploymentConfig(startup_timeout=PATIENCE)
    for name, each in [("slow", Slow), ("fails", Fails)]:
        env.register_service_with_config(name, each, deployment_config=config)
    with pytest.raises(errors.DeployError, match="service 'fails' replica 0: LookupError: no database"):
        env.deploy()
    gate.set()


@pytest.mark.parametrize("circle", [["svc-a"], ["svc-a", "svc-b"]], ids=len)
def test_start_hooks_may_submit_calls_for_later(env, threaded, circle):
    """A start hook can `submit` calls to its own service, and in a circle. They run after the hooks."""
    early(env, threaded, "setup", "submit", circle)
    env.deploy()
    assert env.service("svc-a").read() == ["setup"]


def test_start_hook_may_call_another_replica_of_its_service(env):
    """A start hook can call another replica of its service, which answers once it is ready."""
    called, answered = threading.Event(), []

    class Second:
        def setup(self):
            if self.ctx.replica_index == 1:
                future = self.ctx.service("svc").submit("note", "early")
                called.set()
                future.result()
            else:
                assert called.wait(PATIENCE)

        def note(self, value):
            answered.append((self.ctx.replica_index, value))

    config = ServiceDeploymentConfig(replicas=2, load_balancing=True, startup_timeout=PATIENCE, timeout=PATIENCE)
    env.register_service_with_config("svc", Second, deployment_config=config)
    env.deploy()
    assert answered == [(0, "early")]


def test_start_hook_hears_that_the_service_it_calls_cannot_start(env):
    """If a start hook calls a service that cannot start, it gets that service's DeployError at once."""

    class Broken:
        def __init__(self):
            msg = "no"
            raise RuntimeError(msg)

        def note(self, _value):
            pass

    config = ServiceDeploymentConfig(startup_timeout=PATIENCE, timeout=PATIENCE)
    env.register_service_with_config("svc-a", Early, "setup", "call", "svc-b", deployment_config=config)
    env.register_service_with_config("svc-b", Broken, deployment_config=config)
    with pytest.raises(errors.DeployError, match=r"service 'svc-a'.*DeployError.*'svc-b'.*no"):
        env.service("svc-a").read()
    with pytest.raises(errors.DeployError, match="service 'svc-b'"):
        env.service("svc-b").note(1)


def test_call_of_a_start_hook_has_its_time_once_the_other_service_is_ready(env):
    """A call made in a start hook has its full timeout once the other service is ready."""
    called = threading.Event()

    class Front:
        def setup(self):
            future = self.ctx.service("svc-b").with_options(timeout=1e-6).submit("note", "early")
            called.set()
            future.result()

    class Slow(Early):
        def setup(self):
            assert called.wait(PATIENCE)

    config = ServiceDeploymentConfig(startup_timeout=PATIENCE)
    env.register_service_with_config("svc-a", Front, deployment_config=config)
    env.register_service_with_config("svc-b", Slow, "", "", "", deployment_config=config)
    env.deploy()
    assert env.service("svc-b").read() == ["early"]
