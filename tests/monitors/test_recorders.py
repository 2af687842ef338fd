"""Recorders, and what monitors see of a service: counts of replicas that left, and errors that name a monitor."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_threading
from sage_plugins import Environment, ServiceDeploymentConfig, batch_of, errors, hookimpl
from sage_plugins.interfaces import QuietMonitor
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration


class Echo:
    def echo(self, value):
        return value


class Recorder:
    def __init__(self, who):
        self.who, self.calls, self.closed = who, 0, 0

    def writer(self):
        return self.record

    def record(self, _method, _outcome, _wait_s, _run_s):
        self.calls += 1

    def snapshot(self):
        return {"count": self.calls}

    def close(self):
        self.closed += 1


class Faulty(Recorder):
    def record(self, _method, _outcome, _wait_s, _run_s):
        raise RuntimeError("cannot count")


class Counting(QuietMonitor):
    """A monitor that counts calls and keeps its recorders and its service."""

    def __init__(self, kind=Recorder):
        self.kind, self.recorders, self.service = kind, [], None

    def recorder(self, who, _methods):
        self.recorders.append(self.kind(who))
        return self.recorders[-1]

    def attach(self, service):
        self.service = service

    def merge(self, snapshots):
        return {"count": sum(each["count"] for each in snapshots)}

    summary = merge


@pytest.fixture
def watched():
    """Deploys a service with the monitor *monitor* and returns its environment."""
    opened = []

    def make(monitor, service=Echo, **config):
        class Plugin:
            @hookimpl
            def sage_register_monitors(self):
                return [Registration("counting", lambda _options: monitor, "Counts")]

        registry = Registry.of(Plugin(), sage_deploy_balancers, sage_deploy_local, sage_deploy_threading)
        env = Environment("home", registry=registry)
        opened.append(env)
        config = ServiceDeploymentConfig(**{"monitors": ["counting"], **config})
        env.register_service_with_config("svc", service, deployment_config=config)
        env.deploy()
        return env

    yield make
    for env in opened:
        env.close()


def test_snapshots_have_what_replicas_counted_that_left(watched):
    """A service's snapshots include the counts of replicas that have left."""
    monitor = Counting()
    env = watched(monitor, replicas=2, load_balancing=True)
    for number in range(10):
        env.service("svc").echo(number)
    env.scale("svc", 1)
    assert monitor.merge(monitor.service.snapshots()) == {"count": 10}


class Plain:
    """A monitor without a base class and without optional methods."""

    def recorder(self, who, _methods):
        return Recorder(who)

    def refused(self, _method, _reason):
        pass

    def event(self, _event):
        pass

    def summary(self, snapshots):
        return {"count": sum(each["count"] for each in snapshots)}

    def close(self):
        pass


def test_counts_of_replicas_leave_with_them_without_merge(watched, caplog):
    """A monitor without `attach` and `merge` works. Counts of replicas that leave are lost."""
    env = watched(Plain(), replicas=2, load_balancing=True)
    for number in range(10):
        env.service("svc").echo(number)
    assert env.get_service_status("svc")["monitors"]["counting"] == {"count": 10}
    env.scale("svc", 1)
    assert env.get_service_status("svc")["monitors"]["counting"] == {"count": 5}
    assert not caplog.records


class Counted(Recorder):
    def counts(self):
        return {"request_count": self.calls, "error_count": 0}


class Statistics:
    def __init__(self, ctx):
        self.ctx = ctx

    def statistics(self):
        return self.ctx.statistics()


@pytest.mark.parametrize(("recorder", "counted"), [(Counted, 3), (Recorder, 0)])
def test_replica_asks_its_monitor_for_the_recorder_only(environments, caplog, recorder, counted):
    """A replica uses only `recorder` of the monitor that it creates."""
    monitor, made = Counting(recorder), []

    def create(_options):
        made.append(monitor if not made else SimpleNamespace(recorder=monitor.recorder))
        return made[-1]

    class Plugin:
        @hookimpl
        def sage_register_monitors(self):
            return [Registration("metrics", create, "Has the name that statistics go by")]

    registry = Registry.of(Plugin(), sage_deploy_balancers, sage_deploy_local, sage_deploy_threading)
    with environments("home", registry=registry) as env:
        config = ServiceDeploymentConfig(monitors=["metrics"])
        env.register_service_with_config("svc", Statistics, deployment_config=config)
        for _ in range(3):
            env.service("svc").statistics()
        assert env.service("svc").statistics()["request_count"] == counted
        env.restart("svc")
        assert monitor.merge(monitor.service.snapshots()) == {"count": 4}
    assert len(made) == 3, "one for the calling side and one for each replica"
    assert not caplog.records


def test_monitor_sees_environment_queue_and_load(watched):
    """A monitor sees the environment's name, the queue, and each replica's node and load."""
    monitor = Counting()
    watched(monitor)
    (replica,) = monitor.service.replicas()
    seen = (monitor.service.environment, monitor.service.queued, replica.node, replica.inflight)
    assert seen == ("home", 0, None, 0)


def test_recorders_are_closed_with_their_replicas_and_the_service(watched):
    """Recorders are closed when their replica or the service stops."""
    monitor = Counting()
    env = watched(monitor)
    env.close()
    assert {(each.who.replica, each.closed > 0) for each in monitor.recorders} == {(None, True), ("svc#0", True)}


class Writerless(Recorder):
    def writer(self):
        raise OSError("disk full")


def unmade(_options):
    raise OSError("disk full")


@pytest.mark.parametrize("create", [unmade, lambda _options: Counting(Writerless)])
def test_monitor_that_raises_before_the_start_is_named(environments, create):
    """If a monitor, or the writer of its recorder, cannot be made, the error names the monitor."""

    class Plugin:
        @hookimpl
        def sage_register_monitors(self):
            return [Registration("counting", create, "Counts")]

    registry = Registry.of(Plugin(), sage_deploy_local, sage_deploy_threading)
    with environments("home", registry=registry) as env:
        env.register_service_with_config("svc", Echo, deployment_config=ServiceDeploymentConfig(monitors=["counting"]))
        with pytest.raises(errors.PluginError, match=r"monitor 'counting' from .*OSError: disk full"):
            env.deploy()


@pytest.mark.parametrize("side", ["caller", "replica"])
def test_recorder_that_cannot_be_made_names_its_monitor(watched, side):
    """If a recorder cannot be created, the error names its monitor."""
    monitor = Counting()

    def make(who):
        if (who.replica is None) == (side == "caller"):
            raise RuntimeError("no socket")
        return Recorder(who)

    monitor.kind = make
    with pytest.raises(errors.PluginError, match=r"monitor 'counting' from .* cannot make the recorder .*no socket"):
        watched(monitor)


def test_recorder_without_close_keeps_nothing_from_stopping(watched, caplog, monkeypatch):
    """A recorder without `close` does not keep the service from stopping."""
    monkeypatch.delattr(Recorder, "close")
    env = watched(Counting())
    env.close()
    assert "recorder of monitor 'counting'" in caplog.text


def test_recorder_that_raises_is_named_and_hurts_no_call(watched, caplog):
    """If a recorder raises, the log names its monitor, and calls are unaffected."""
    env = watched(Counting(Faulty))
    assert [env.service("svc").echo(number) for number in range(3)] == [0, 1, 2]
    assert [record.getMessage() for record in caplog.records if "recorder of monitor 'counting'" in record.getMessage()]


class Surrounding(Recorder):
    """Records each call that it surrounds, and how it ended."""

    def __init__(self, who):
        super().__init__(who)
        self.seen = []

    @contextmanager
    def around(self, call):
        name = f"{call.owner.service}.{call.method.name}"
        try:
            yield
        except BaseException as error:
            self.seen.append((name, type(error)))
            raise
        self.seen.append((name, None))


class Shapes:
    """One method of each kind."""

    def plain(self, value):
        return value

    async def later(self, value):
        return value

    def hidden(self, value):
        return self.later(value)

    def count(self, to):
        yield from range(to)

    async def count_later(self, to):
        for number in range(to):
            yield number

    def fail(self):
        raise LookupError("no such thing")

    async def fail_later(self):
        raise LookupError("no such thing")


@pytest.mark.parametrize("strategy", ["single", "pool", "async", "inline"])
def test_a_recorder_can_be_around_methods_of_every_kind(watched, strategy):
    """A recorder's `around` surrounds each method once, whatever its kind, and sees what it raises."""
    monitor = Counting(Surrounding)
    env = watched(monitor, service=Shapes, threading_strategy=strategy)
    handle = env.service("svc")
    assert [handle.call(method, 5) for method in ("plain", "later", "hidden")] == [5, 5, 5]
    assert list(handle.stream("count", 3)) == list(handle.stream("count_later", 3)) == [0, 1, 2]
    for method in ("fail", "fail_later"):
        with pytest.raises(LookupError):
            handle.call(method)
    methods = ("plain", "later", "hidden", "count", "count_later")
    replica = next(each for each in monitor.recorders if each.who.replica)
    assert sorted(replica.seen, key=str) == sorted(
        [*((f"svc.{each}", None) for each in methods), ("svc.fail", LookupError), ("svc.fail_later", LookupError)],
        key=str,
    )


class Together:
    def double(self, value):
        return 2 * value

    @batch_of("double")
    def double_all(self, values):
        return [2 * each for each in values]


def test_a_recorder_is_around_a_batch_once(watched):
    """A recorder's `around` surrounds a batch once, with one of its calls."""
    monitor = Counting(Surrounding)
    env = watched(monitor, service=Together, threading_strategy="single", batch_size=2, batch_wait=20.0)
    double = [env.service("svc").submit("double", number) for number in range(2)]
    assert [each.result(20) for each in double] == [0, 2]
    replica = next(each for each in monitor.recorders if each.who.replica)
    assert replica.seen == [("svc.double", None)]


def test_what_was_counted_is_added_up_again_only_if_a_call_has_ended(env):
    """Metrics are summed again only if a call has ended since; the next call shows at once."""
    env.register_service("echo", Echo)
    handle = env.service("echo")
    handle.echo(1)

    def families():
        return env.metrics()["echo"]

    before, again = families(), families()
    assert again["sage_requests_total"] is before["sage_requests_total"]
    handle.echo(1)
    after = families()
    assert sum(after["sage_requests_total"].values.values()) == 2
    assert sum(before["sage_requests_total"].values.values()) == 1
    assert (
        after["sage_request_duration_seconds"].values[("echo",)]
        > before["sage_request_duration_seconds"].values[("echo",)]
    )
