"""What tools see and do of an environment: status, events, logs, nodes, and the extensions that use them."""

from __future__ import annotations

import json
import logging

import attrs
import pytest

import sage_deploy_balancers
import sage_deploy_files
import sage_deploy_local
import sage_deploy_local.target
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_cli.log_lines import log_lines
from sage_deploy_remote.link.serving.log_lines import LogLines
from sage_plugins import ServiceDeploymentConfig, errors, hookimpl
from sage_plugins.interfaces import NodeView
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Placed, Registration

OURS = (sage_deploy_balancers, sage_deploy_files, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)


class Echo:
    def echo(self, value):
        self.ctx.logger.warning("echo %s", value)
        return value


class Careless:
    def count(self, value):
        self.ctx.logger.warning("%d of them", value)
        return "counted"


# -- status ------------------------------------------------------------------------------------------------------------


def test_status_is_json_before_and_after_the_deployment(env):
    """The status can be written as JSON, and names every service with its state and metrics."""
    env.register_service("one", Echo)
    env.register_service("two", Echo)
    before = json.loads(json.dumps(env.status()))
    assert {name: each["state"] for name, each in before["services"].items()} == {"one": "pending", "two": "pending"}
    env.deploy()
    env.service("one").echo(1)
    after = json.loads(json.dumps(env.status()))
    assert after["environment"] == env.name
    assert after["services"]["one"]["state"] == "ready"
    assert after["services"]["one"]["metrics"]["request_count"] == 1


def test_status_of_one_service_asks_no_other(env, monkeypatch):
    """`status(name)` asks no other service; an unknown name gives no service."""
    env.register_service("one", Echo)
    env.register_service("two", Echo)
    monkeypatch.setattr(env.task("two"), "status", lambda: pytest.fail("it was asked"))
    assert list(env.status("one")["services"]) == ["one"]
    assert env.status("three")["services"] == {}


def test_an_overview_has_a_part_of_the_status_and_asks_no_replica(env, monkeypatch):
    """
    `overview` returns a part of the status without asking replicas.

    It includes services with an invalid configuration.
    """
    env.register_service("good", Echo)
    env.register_service_with_config("bad", Echo, deployment_config=ServiceDeploymentConfig(target="nowhere"))
    with pytest.raises(errors.SageDeployError):
        env.deploy()
    env.service("good").echo(1)
    whole = env.status()["services"]
    for member in env.task("good").replicas.members:
        monkeypatch.setattr(member, "stats", lambda: pytest.fail("it was asked"))
    found = env.overview()
    assert found["bad"] == whole["bad"]
    assert found["good"]["state"] == whole["good"]["state"] == "ready"
    assert (found["good"]["queue"], found["good"]["queue_capacity"]) == (0, 1000)
    (replica,), (in_full,) = found["good"]["replicas"], whole["good"]["replicas"]
    assert replica == {name: in_full[name] for name in replica}


def test_counts_are_a_part_of_the_metrics_and_the_same_objects_as_long_as_no_call_ends(env):
    """
    `counts` returns the call metrics, the same objects until another call ends, and includes replaced replicas' calls.
    """
    env.register_service_with_config("kv", Echo, deployment_config=ServiceDeploymentConfig(replicas=2))
    env.register_service_with_config("bad", Echo, deployment_config=ServiceDeploymentConfig(target="nowhere"))
    with pytest.raises(errors.SageDeployError):
        env.deploy()
    env.service("kv").echo(1)
    calls = {"sage_requests_total", "sage_request_duration_seconds"}
    first, again = env.counts()["kv"], env.counts()["kv"]
    assert all(first[name] is again[name] for name in calls)
    env.service("kv").echo(2)
    second, whole = env.counts(), env.metrics()["kv"]
    assert all(second["kv"][name] == whole[name] != first[name] for name in calls)
    assert second["bad"] == {}
    env.restart("kv")
    env.service("kv").echo(3)
    third, whole = env.counts()["kv"], env.metrics()["kv"]
    assert third["sage_requests_total"].values["echo", "ok"] == 3
    assert all(third[name] == whole[name] for name in calls)


def test_status_masks_secrets(env):
    """The status hides secrets at any depth of the configuration."""
    config = ServiceDeploymentConfig(user_config={"db": {"password": "swordfish"}, "note": "visible"})
    env.register_service_with_config("kv", Echo, deployment_config=config)
    text = json.dumps(env.status())
    assert "swordfish" not in text
    assert "visible" in text


def test_status_shows_a_service_that_cannot_be_composed(env):
    """The status shows a service with an invalid configuration as refused, and the others as usual."""
    env.register_service("good", Echo)
    env.register_service_with_config("bad", Echo, deployment_config=ServiceDeploymentConfig(target="nowhere"))
    services = env.status()["services"]
    assert services["bad"]["state"] == "refused"
    assert "nowhere" in services["bad"]["error"]
    assert services["good"]["state"] == "pending"


# -- events and logs ---------------------------------------------------------------------------------------------------


def test_events_have_numbers_that_count_up(env):
    """Events are numbered from 1, and `events` filters by number and by service."""
    env.register_service("one", Echo)
    env.register_service("two", Echo)
    env.deploy()
    events = env.events()
    assert [each.seq for each in events] == list(range(1, len(events) + 1))
    assert {each.event.service for each in events} == {"one", "two"}
    assert env.events(after=events[-1].seq) == []
    assert {each.event.service for each in env.events(service="two")} == {"two"}
    env.scale("one", 2)
    assert all(each.event.service == "one" for each in env.events(after=events[-1].seq))
    assert env.events(after=events[-1].seq)


def test_listener_that_raises_does_not_stop_the_record(environments):
    """A listener that raises does not stop the recording of events."""

    def listener(event):
        raise RuntimeError(event.kind)

    env = environments("test", on_event=listener)
    env.register_service("one", Echo)
    env.deploy()
    assert {each.event.kind for each in env.events()} >= {"replica_ready"}


def test_logs_are_kept_once_somebody_asked(env, environments):
    """Logs are kept from the first call of `logs` on, and only lines of this environment's services."""
    other = environments("other")
    for each, name in ((env, "mine"), (other, "theirs")):
        each.register_service(name, Echo)
        each.deploy()
    assert env.logs() == []
    env.service("mine").echo(1)
    other.service("theirs").echo(2)
    (line,) = env.logs()
    assert (line.seq, line.level, line.service, line.message) == (1, "WARNING", "mine", "echo 1")
    assert env.logs(after=1) == []


def test_a_line_is_kept_while_another_thread_holds_the_locks(env, in_thread):
    """Recording a log line does not wait for the environment's locks: a class imported under them may log."""
    env.register_service("one", Echo)
    env.deploy()
    assert env.logs() == []
    with env._services.lock, env._services.catalogue._lock:
        logged = in_thread(logging.getLogger("sage.service.one").warning, "heard")
        logged.result(5)
    assert [line.message for line in env.logs()] == ["heard"]


@pytest.fixture(params=["the environment", "a replica's process", "the terminal"])
def keeper(request, env):
    """Logs are kept or shown there."""
    if request.param == "the environment":
        assert env.logs() == []
        yield
    elif request.param == "a replica's process":
        lines = LogLines("one", "one#0")
        lines.begin()
        yield
        lines.end()
    else:
        with log_lines("info"):
            yield


@pytest.mark.usefixtures("keeper")
def test_a_line_that_cannot_be_formatted_does_not_fail_the_method_that_logs_it(env, monkeypatch):
    """Wrong arguments of a log line fail no method, wherever lines are kept or shown, just as in plain `logging`."""
    monkeypatch.setattr(logging, "raiseExceptions", False)  # `logging` would print the error
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's raise
    env.register_service("one", Careless)
    assert env.service("one").count("many") == "counted"


# -- extensions --------------------------------------------------------------------------------------------------------


@attrs.frozen
class PagerOptions:
    """
    Options of the pager.

    Attributes:
        number: Whom to call.
    """

    number: int = 112


class Pager:
    """An extension that records what happens to it."""

    diary: list = []  # noqa: RUF012 - one test at a time
    fails = False

    def __init__(self, options):
        self.options = options

    def start(self, operations):
        states = {name: each["state"] for name, each in operations.status()["services"].items()}
        self.diary.append(("start", self.options.number, states))
        self.operations = operations
        if self.fails:
            raise RuntimeError("no line")

    def close(self):
        self.diary.append(("close", self.operations.service("kv").echo("still there")))


class Plugin:
    @hookimpl
    def sage_register_extensions(self):
        return [Registration("pager", Pager, "Calls somebody", options=PagerOptions)]


@pytest.fixture
def paged(environments, monkeypatch):
    monkeypatch.setattr(Pager, "diary", [])

    def make(options):
        env = environments("test", registry=Registry.of(*OURS, Plugin()), options=options)
        env.register_service("kv", Echo)
        return env

    return make


def test_extension_lives_from_the_deployment_to_the_close(paged):
    """An extension starts once, when the services are ready, and closes while they still answer."""
    env = paged({"pager": {"number": 7}})
    assert Pager.diary == []
    env.deploy()
    env.deploy()
    env.apply()
    assert Pager.diary == [("start", 7, {"kv": "ready"})]
    env.close()
    env.close()
    assert Pager.diary == [("start", 7, {"kv": "ready"}), ("close", "still there")]


def test_extension_is_not_made_without_its_options(paged):
    """An extension is created only if the environment's options name it."""
    env = paged(None)
    env.deploy()
    env.close()
    assert Pager.diary == []


def test_options_of_an_extension_are_read_from_files_and_checked(paged, tmp_path):
    """
    A file's options of an extension are checked: an unknown one is refused with its place, a valid file starts it.
    """
    path = tmp_path / "f.yaml"
    path.write_text("options: {pager: {numbre: 1}}\nservices: {}\n", encoding="utf-8")
    env = paged(None)
    env.load_service_deployment_config(path)
    with pytest.raises(errors.ConfigError, match=r"f.yaml:1:19: error E101: options.pager.numbre"):
        env.deploy()
    path.write_text("options: {pager: {number: 1}}\nservices: {}\n", encoding="utf-8")
    env.load_service_deployment_config(path)
    assert env.plan().notes == ()
    env.deploy()
    assert Pager.diary == [("start", 1, {"kv": "ready"})]


def test_extension_that_does_not_start_undoes_the_deployment(paged, monkeypatch):
    """If an extension does not start, the deployment fails and the services are stopped."""
    monkeypatch.setattr(Pager, "fails", True)
    env = paged({"pager": {}})
    with pytest.raises(errors.DeployError, match=r"extension 'pager' from .* did not start: RuntimeError: no line"):
        env.deploy()
    assert env.status()["services"]["kv"]["state"] == "pending"


# -- nodes -------------------------------------------------------------------------------------------------------------


def test_replicas_in_this_process_are_on_a_node_of_that_name(env):
    """Replicas in this process are on a node "this process", with this machine's resources."""
    env.register_service("one", Echo)
    assert [node["replicas"] for node in env.nodes()] == [[]]
    env.deploy()
    (node,) = json.loads(json.dumps(env.nodes()))
    assert (node["name"], node["state"], node["replicas"]) == ("this process", "alive", [["one", "one#0", "ready"]])
    assert 0 <= node["cpu"][0] <= node["cpu"][1]
    assert 0 < node["memory"][0] <= node["memory"][1]
    assert (node["gpu"], node["labels"], node["refused"]) == ([0, 0], {}, [])


class Cluster(sage_deploy_local.target.LocalTarget):
    """Two nodes; node b takes no replica. The replicas really run in this process."""

    silent = False

    def place(self, specs):
        return [Placed("a", "it is free", {"b": "it has no GPU"}) for _ in specs]

    def start(self, *args):
        replica = super().start(*args)
        replica.node = "a"
        return replica

    def nodes(self):
        if self.silent:
            raise ConnectionError("nobody is there")
        return [NodeView(name, (1.0, 4.0), (0, 1), (5, 10), {"rack": name}) for name in "ab"]


class ClusterPlugin:
    @hookimpl
    def sage_register_targets(self):
        capabilities = frozenset({"in_process", "lists_nodes"})
        return [Registration("cluster", lambda _: Cluster(), "Two nodes", capabilities=capabilities)]


def test_nodes_are_those_that_targets_list_with_why_replicas_are_not_there(environments, monkeypatch):
    """
    `nodes` lists the nodes of each target and why replicas are not on them.

    If a target fails, its nodes are "unknown".
    """
    env = environments("clustered", registry=Registry.of(*OURS, ClusterPlugin()))
    env.register_service_with_config("kv", Echo, deployment_config=ServiceDeploymentConfig(target="cluster"))
    env.deploy()
    a, b = env.nodes()
    assert (a["name"], a["cpu"], a["labels"], a["replicas"]) == (
        "a",
        (1.0, 4.0),
        {"rack": "a"},
        [("kv", "kv#0", "ready")],
    )
    assert (b["name"], b["replicas"], b["refused"]) == ("b", [], ["kv#0: it has no GPU"])
    monkeypatch.setattr(Cluster, "silent", True)
    unknown = next(node for node in env.nodes() if node["name"] == "a")
    assert (unknown["state"], unknown["cpu"]) == ("unknown", None)
    assert "target 'cluster' does not say which nodes it has: ConnectionError: nobody is there" in unknown["refused"]
