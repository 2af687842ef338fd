"""The management API of a real server: what it shows and what it changes."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from sage_deploy_server.management import rows
from sage_plugins.values import ReplicaState
from served_desk import Inner

SERVICE = "/api/v1/services/desk"
TOKEN = "t" * 64


@pytest.fixture
def change(ask):
    """Request a change, and wait for its end."""

    def change(path, body=None, **headers):
        status, said, answer = ask("POST", path, body, **headers)
        if status != 202:
            return status, said
        assert answer["Location"] == said["operation"]
        while said["state"] == "running":
            _, said, _ = ask("GET", f"/api/v1/operations/{said['id']}?wait=10")
        return status, said

    return change


def test_a_service_is_shown_at_a_glance_and_in_full(ask, env):
    """A service is shown as one row, in full, with its replicas and with its plan."""
    env.service("desk").add(1, 2)
    (row,) = ask("GET", "/api/v1/services")[1]
    assert (row["name"], row["state"], row["ready"], row["replicas"], row["calls"]) == ("desk", "ready", 1, 1, 1)
    full = ask("GET", SERVICE)[1]
    assert full["deployment_config"]["threading_strategy"] == "pool"
    assert [each["id"] for each in ask("GET", f"{SERVICE}/replicas")[1]] == ["desk#0"]
    assert ask("GET", f"{SERVICE}/plan")[1]["action"] == "keep"


def test_a_row_says_how_busy_a_service_is_and_what_is_left(ask, env):
    """A row shows how busy a service is: its slots and running calls, in total and by replica."""
    call = env.service("desk").submit("hold")
    (row,) = ask("GET", "/api/v1/services")[1]
    while row["inflight"] == 0:
        (row,) = ask("GET", "/api/v1/services")[1]
    (replica,) = ask("GET", f"{SERVICE}/replicas")[1]
    slots = replica["slots"]
    assert (row["inflight"], row["slots"], row["abandoned"], row["queue_capacity"]) == (1, slots, 0, 1000)
    assert (row["stripes"], row["more"]) == ([["desk#0", "ready", slots, 1, 0]], 0)
    call.cancel()


class Held:
    entered, door = threading.Event(), threading.Event()

    def hold(self):
        Held.entered.set()
        Held.door.wait()


def test_clients_that_wait_for_a_change_keep_no_other_from_an_answer(ask, env, server):
    """However many clients wait for the end of a change, other requests are answered."""
    env.register_service("held", Held)
    call = env.service("held").submit("hold")
    Held.entered.wait()
    path = ask("POST", "/api/v1/services/held/drain", {"timeout": 60})[1]["operation"]
    waiting = [socket.create_connection(server.address) for _ in range(50)]  # more than the server has threads
    for each in waiting:
        head = f"GET {path}?wait=60 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        each.sendall(head.encode())
    try:
        assert ask("GET", path)[1]["state"] == "running"
        assert ask("GET", "/readyz")[0] == 503
    finally:
        Held.door.set()
    for each in waiting:
        assert each.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        each.close()
    assert ask("GET", path)[1]["state"] == "done"
    assert call.result() is None


def test_a_row_says_since_when_a_service_is_as_it_is(ask, change):
    """A row's `since` is the time of the last event that led to the current state."""

    def shown():
        (row,) = ask("GET", "/api/v1/services")[1]
        return row["state"], row["since"]

    def latest(kind):
        return [each["time"] for each in ask("GET", "/api/v1/events?service=desk")[1] if each["kind"] == kind][-1]

    first = latest("replica_ready")
    assert shown() == ("ready", first)
    change(f"{SERVICE}/restart")
    assert shown() == ("ready", latest("replica_ready"))
    assert latest("replica_ready") > first
    change(f"{SERVICE}/drain")
    assert shown() == ("stopped", latest("replica_stopped"))


def test_a_service_that_has_too_few_replicas_is_so_since_the_last_one_failed(ask, change, env):
    """A service with too few healthy replicas is degraded since the last one failed; the others answer."""
    change(f"{SERVICE}/scale", {"replicas": 2})
    (member, _) = env.task("desk").replicas.members
    member.mark(ReplicaState.UNHEALTHY, "it looks pale")
    (row,) = ask("GET", "/api/v1/services")[1]
    (told,) = [each for each in ask("GET", "/api/v1/events?service=desk")[1] if each["kind"] == "replica_unhealthy"]
    assert (row["state"], row["ready"], row["since"]) == ("degraded", 1, told["time"])


def test_of_many_reasons_a_row_has_one_and_says_how_many_more(ask, change, env):
    """If several replicas have reasons, the row shows one and the number of the others."""
    change(f"{SERVICE}/scale", {"replicas": 3})
    for member in env.task("desk").replicas.members:
        member.mark(ReplicaState.UNHEALTHY, f"{member.id} looks pale")
    (row,) = ask("GET", "/api/v1/services")[1]
    assert (row["state"], row["why"]) == ("unready", "desk#0 looks pale; and 2 more")


def test_of_many_replicas_a_row_has_some_and_says_how_many_more(ask, change, monkeypatch):
    """A row shows a limited number of replicas and the number of the others."""
    monkeypatch.setattr(rows, "_MAX_STRIPES", 2)
    change(f"{SERVICE}/scale", {"replicas": 3})
    (row,) = ask("GET", "/api/v1/services")[1]
    assert ([each[0] for each in row["stripes"]], row["more"]) == (["desk#0", "desk#1"], 1)


def test_rates_are_known_once_two_looks_are_a_second_apart(ask, env):
    """Rates are known once two samples are a second apart."""
    (row,) = ask("GET", "/api/v1/services")[1]
    assert (row["rate"], row["error_rate"]) == (None, None)
    while row["rate"] is None:
        (row,) = ask("GET", "/api/v1/services")[1]
    assert row["error_rate"] == 0.0


def test_a_replica_says_what_became_of_it_and_what_it_uses(ask, change):
    """A replica shows its past states with their times, and the CPU and memory of its process."""
    change(f"{SERVICE}/restart")
    (replica,) = ask("GET", f"{SERVICE}/replicas")[1]
    assert (replica["id"], replica["restarts"], replica["abandoned"]) == ("desk#0.1", 1, 0)
    assert [state for _, state, _ in replica["history"]] == ["pending", "starting", "ready"]
    assert replica["since"] == replica["history"][0][0] <= replica["history"][-1][0]
    assert replica["cpu"] >= 0
    assert replica["memory"] > 2**20


def test_errors_of_methods_are_shown_with_where_they_were_raised(ask, env):
    """An error of a method is shown with its traceback and with the request id that the log also has."""
    assert ask("POST", "/services/desk/fail", {}, X_Request_Id="mine")[0] == 500
    (error,) = ask("GET", f"{SERVICE}/errors")[1]
    assert (error["type"], error["count"], error["message"]) == ("LookupError", 1, "no such thing")
    assert (error["method"], error["request_id"]) == ("fail", "mine")
    assert error["traceback"].endswith("LookupError: no such thing\n")


def test_stacks_show_where_a_method_hangs(ask, env):
    """The stacks of a replica show where a method hangs; an unknown replica gets 404."""
    call = env.service("desk").submit("hold")
    path, text = f"{SERVICE}/replicas/desk%230/stacks", ""
    while "in hold" not in text:
        text = ask("GET", path)[1]["text"]
    call.cancel()
    status, problem, _ = ask("GET", path.replace("%230", "%237"))
    assert (status, problem["code"]) == (404, "replica")


def test_the_environment_says_who_it_is(ask, env):
    said = ask("GET", "/api/v1/environment")[1]
    assert (said["name"], said["id"]) == ("served", env.id)


@pytest.mark.parametrize("path", [SERVICE, f"{SERVICE}/replicas", f"{SERVICE}/plan"])
def test_a_service_that_is_not_there_is_not_found(ask, path):
    status, problem, _ = ask("GET", path.replace("desk", "desc"))
    assert (status, problem["code"]) == (404, "ServiceNotFoundError")
    assert "did you mean 'desk'" in problem["detail"]


def test_scaling_is_an_operation_that_ends_when_the_replicas_are_ready(change, ask):
    """Scaling is an operation that ends when the replicas are ready."""
    status, done = change(f"{SERVICE}/scale", {"replicas": 3})
    assert (status, done["state"], done["what"], done["by"]) == (202, "done", "scale", "token")
    assert ask("GET", SERVICE)[1]["health"]["ready"] == 3


def test_restart_replaces_every_replica(change, ask):
    assert change(f"{SERVICE}/restart")[1]["state"] == "done"
    assert [each["id"] for each in ask("GET", f"{SERVICE}/replicas")[1]] == ["desk#0.1"]


def test_restart_replaces_one_replica_and_leaves_the_others(change, ask):
    """A restart of one replica leaves the others. An unknown replica gets 404, and nothing changes."""
    change(f"{SERVICE}/scale", {"replicas": 2})
    status, problem, _ = ask("POST", f"{SERVICE}/restart", {"replica": "desk#7"})
    assert (status, problem["code"]) == (404, "replica")
    assert "it has desk#0, desk#1" in problem["detail"]
    assert change(f"{SERVICE}/restart", {"replica": "desk#1"})[1]["state"] == "done"
    assert [each["id"] for each in ask("GET", f"{SERVICE}/replicas")[1]] == ["desk#0", "desk#1.1"]


def test_another_balancer_takes_over_and_one_that_is_not_there_does_not(change, ask):
    """The balancer can be changed; an unknown one fails with a suggestion."""
    assert change(f"{SERVICE}/balancer", {"id": "round_robin"})[1]["state"] == "done"
    failed = change(f"{SERVICE}/balancer", {"id": "roundrobin"})[1]
    assert (failed["state"], failed["error"]["code"]) == ("failed", "UnknownPluginError")
    assert "did you mean 'round_robin'" in failed["error"]["detail"]


def test_a_drained_service_is_not_ready_any_more(change, ask):
    """After a drain, the environment is not ready."""
    assert change(f"{SERVICE}/drain")[1]["state"] == "done"
    status, said, _ = ask("GET", "/readyz", token=None)
    assert (status, said["not_ready"]) == (503, {"desk": "stopped"})


@pytest.mark.parametrize(
    ("what", "body"), [("scale", {"replicas": 3}), ("restart", {}), ("drain", {}), ("balancer", {"id": "random"})]
)
def test_a_dry_run_changes_nothing(ask, what, body):
    before = ask("GET", SERVICE)[1]
    status, said, _ = ask("POST", f"{SERVICE}/{what}?dry_run=1", body)
    assert (status, said["dry_run"], said["what"]) == (200, True, what)
    after = ask("GET", SERVICE)[1]
    assert [each["id"] for each in after["replicas"]] == [each["id"] for each in before["replicas"]]
    assert after["generation"] == before["generation"]


def test_who_has_not_seen_the_last_change_changes_nothing(change, ask):
    """A change with an outdated generation gets 412, so that two people do not undo each other's changes."""
    seen = ask("GET", SERVICE)[1]["generation"]
    assert change(f"{SERVICE}/scale", {"replicas": 2}, If_Match=str(seen))[0] == 202
    status, problem, _ = ask("POST", f"{SERVICE}/scale", {"replicas": 3}, If_Match=f'"{seen}"')
    assert (status, problem["code"]) == (412, "generation")
    now = ask("GET", SERVICE)[1]
    assert now["health"]["replicas"] == 2
    assert now["generation"] > seen


def test_who_wants_any_generation_changes_what_there_is(ask):
    """`If-Match: *` accepts any generation, as RFC 9110 says. An unknown service gets 404, whatever the generation."""
    assert ask("POST", f"{SERVICE}/scale?dry_run=1", {"replicas": 3}, If_Match="*")[0] == 200
    for generation in ("*", "0", "7"):
        assert ask("POST", "/api/v1/services/desc/restart", {}, If_Match=generation)[0] == 404


def test_changes_that_others_make_count_too(ask, env):
    """A change made in the environment's own process also changes the generation."""
    seen = ask("GET", SERVICE)[1]["generation"]
    env.scale("desk", 2)
    assert ask("POST", f"{SERVICE}/scale", {"replicas": 3}, If_Match=str(seen))[0] == 412


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("scale", {}, "replicas"),
        ("scale", {"replicas": 0}, ">= 1"),
        ("scale", {"replicas": True}, "int"),
        ("scale", {"replicas": "3"}, "int"),
        ("scale", {"replicas": 3, "class": "os:system"}, "class"),
        ("scale", [3], "object"),
        ("restart", {"file": "/etc/passwd"}, "file"),
        ("drain", {"timeout": "long"}, "float"),
        ("balancer", {}, "id"),
        ("scale?dry_run=yes", {"replicas": 1}, "dry_run"),
    ],
)
def test_a_body_that_says_something_else_is_refused(ask, path, body, words):
    """A body with wrong or unknown fields is refused, and the answer names them."""
    status, problem, _ = ask("POST", f"{SERVICE}/{path}", body)
    assert status == 400
    assert words in problem["detail"]


def test_a_changed_file_is_applied(change, ask, env, tmp_path):
    """`apply` reads the environment's own files again. A broken file changes nothing, and the answer names its line."""
    file = tmp_path / "more.yaml"
    entry = "services: {second: {class: 'served_desk:Desk', deployment: {replicas: %s}}}\n"
    file.write_text(entry % 1)
    env.load_service_deployment_config(file)
    file.write_text(entry % 2)
    plan = ask("POST", "/api/v1/plan")[1]
    assert {each["name"]: each["action"] for each in plan["services"]} == {"desk": "keep", "second": "add"}
    as_read = {each["name"]: each for each in ask("GET", "/api/v1/plan")[1]["services"]}
    assert as_read["second"] == ask("GET", "/api/v1/services/second/plan")[1]
    assert [each["value"] for each in as_read["second"]["settings"] if each["key"] == "replicas"] == [1]
    assert change("/api/v1/apply")[1]["details"] == {"changes": {"second": "add"}}
    assert ask("GET", "/api/v1/services/second")[1]["health"]["ready"] == 2
    file.write_text("services: {second: {clas: 'x:Y'}}\n")
    status, problem, _ = ask("POST", "/api/v1/apply")
    assert status == 422
    assert f"{file}:1:" in problem["detail"]
    assert ask("GET", "/api/v1/services/second")[1]["health"]["ready"] == 2


def test_events_and_logs_have_numbers_from_which_to_go_on(change, ask, env, caplog):
    """Events and log lines have increasing numbers, from which a client can continue."""
    caplog.set_level("INFO", "sage.service")
    change(f"{SERVICE}/scale", {"replicas": 2})
    events = ask("GET", "/api/v1/events?service=desk")[1]
    assert "scaled" in [each["kind"] for each in events]
    assert [each["seq"] for each in events] == sorted({each["seq"] for each in events})
    assert ask("GET", f"/api/v1/events?after={events[-1]['seq']}")[1] == []
    (asked,) = (each for each in events if each["kind"] == "change_requested")
    assert asked["reason"] == "scale by token: replicas 2, before 1"
    env.register_service("inner", Inner)
    env.service("desk").request()
    env.service("desk").request()
    lines = ask("GET", "/api/v1/logs?service=desk")[1]
    assert len(lines) >= 2
    assert [each["seq"] for each in lines] == sorted({each["seq"] for each in lines})
    assert ask("GET", f"/api/v1/logs?service=desk&after={lines[-1]['seq']}")[1] == []
    for path in ("events", "logs"):
        for wrong in ("after=soon", "after=-1", "after=nan"):
            assert ask("GET", f"/api/v1/{path}?{wrong}")[0] == 400


def test_an_operation_that_is_not_known_is_not_found(ask):
    assert ask("GET", "/api/v1/operations/77")[0] == 404
    assert ask("GET", "/api/v1/operations/first")[0] == 404


def test_secrets_are_shown_nowhere(ask, env, tmp_path):
    """Secrets are shown in no service, plan or status."""
    file = tmp_path / "secret.yaml"
    file.write_text("services: {s: {class: 'served_desk:Desk', user_config: {api_key: canary-in-a-coal-mine}}}\n")
    env.load_service_deployment_config(file)
    env.deploy()
    shown = [
        ask("GET", path)[1]
        for path in ("/api/v1/services", "/api/v1/services/s", "/api/v1/services/s/plan", "/api/v1/plan")
    ]
    shown.append(ask("POST", "/api/v1/plan")[1])
    assert "canary-in-a-coal-mine" not in json.dumps(shown)


@pytest.mark.parametrize("what", ["scale", "restart", "drain", "balancer"])
def test_each_change_of_a_service_is_an_event_that_names_who_asked(change, ask, what):
    """Each change is an event that names who asked for it; a dry run is none."""
    bodies = {"scale": {"replicas": 2}, "balancer": {"id": "random"}}
    ask("POST", f"{SERVICE}/{what}?dry_run=1", bodies.get(what))
    change(f"{SERVICE}/{what}", bodies.get(what))
    requests = [each for each in ask("GET", "/api/v1/events")[1] if each["kind"] == "change_requested"]
    assert [(each["service"], each["reason"].split(":")[0]) for each in requests] == [("desk", f"{what} by token")]


def test_an_apply_is_an_event_of_all_services(change, ask):
    """An apply is one event for all services."""
    change("/api/v1/apply")
    (event,) = (each for each in ask("GET", "/api/v1/events")[1] if each["kind"] == "change_requested")
    assert (event["service"], event["reason"]) == ("", "apply by token: changes {}")


def test_plugins_and_doctor_say_what_the_commands_say(ask):
    """The API returns the same plugins and doctor findings as the commands."""
    plugins = ask("GET", "/api/v1/plugins")[1]
    assert ("extension", "server") in [(each["kind"], each["id"]) for each in plugins["plugins"]]
    names = {each["name"] for each in ask("GET", "/api/v1/doctor")[1]["findings"]}
    assert {"Python", "plugins", "memory"} <= names
