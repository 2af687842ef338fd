"""The commands in a second terminal, while a real `sage-deploy up` runs in another process."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path

import click
import pytest

from sage_deploy_server.commands.client import EnvironmentClient
from second_terminal import PATIENCE, SAGE_DEPLOY, Terminal

SERVICES = """
import threading
from pathlib import Path


class Greeter:
    slowly = False

    def stop_slowly(self):
        Greeter.slowly = True
        return True

    def stop(self):
        if Greeter.slowly:
            threading.Event().wait(2)
            self.ctx.logger.warning("slowly stopped")

    def greet(self, name: str, times: int = 1) -> str:
        self.ctx.logger.info("greeting %s", name)
        return f"hello {name} " * times

    def count(self, to: int):
        yield from range(to)

    def tick(self):
        yield 1
        threading.Event().wait(60)

    def break_off(self):
        yield 1
        raise LookupError("broke off")

    def fail(self):
        raise LookupError("no such thing")

    def raw(self):
        return b"\\x00\\x01"

    def hold(self):
        Path("held").touch()
        threading.Event().wait(2)
        return "held to the end"
"""

FILE = """
version: 1
services:
  greeter:
    class: "greeters:Greeter"
    deployment: {threading_strategy: pool, thread_count: 2}
"""


@pytest.fixture
def terminal(tmp_path):
    terminal = Terminal(tmp_path, FILE, SERVICES)
    yield terminal
    terminal.close()


def milliseconds(said):
    """Return the durations that `call -v` prints."""
    assert re.search(
        r"answered after .* ms \(queue .* ms, (run .* ms, wire|run and wire) .* ms\), request [0-9a-f]+", said
    )
    return [float(each) for each in re.findall(r"([0-9.]+) ms", said)]


def test_a_second_terminal_needs_no_set_up(terminal):
    """Commands in another process of the same user work without set-up: calls, status, logs and events."""
    terminal.up()
    assert terminal.run("call", "greeter.greet", "name=Ada", "times=2")[0] == '"hello Ada hello Ada "\n'
    assert terminal.run("call", "greeter.greet", '["Bob"]')[0] == '"hello Bob "\n'
    assert terminal.run("call", "greeter.count", "to=3")[0] == "0\n1\n2\n"
    assert terminal.run("call", "greeter.raw")[0] == "\x00\x01"
    out, said = terminal.run("call", "greeter.break_off", code=1)
    assert (out, "LookupError: broke off" in said) == ("1\n", True)
    spent, queue, run, wire = milliseconds(terminal.run("call", "-v", "greeter.greet", "name=Ada")[1])
    assert abs(spent - queue - run - wire) < 0.3  # each is rounded
    assert len(milliseconds(terminal.run("call", "-v", "greeter.count", "to=100")[1])) == 3  # run and wire: one number
    assert "LookupError: no such thing" in terminal.run("call", "greeter.fail", code=1)[1]
    assert "did you mean 'greet'" in terminal.run("call", "greeter.gret", code=2)[1]
    assert "missing a required argument: 'name'" in terminal.run("call", "greeter.greet", code=2)[1]
    assert "name the service and its method" in terminal.run("call", "greet", code=2)[1]
    assert "this is not JSON" in terminal.run("call", "greeter.greet", '{"name": ', code=2)[1]

    (row,) = json.loads(terminal.run("status", "-o", "json")[0])
    assert (row["name"], row["state"], row["calls"]) == ("greeter", "ready", 8)
    assert "greeter  ready  1/1" in terminal.run("status")[0]
    assert "greeter#0" in terminal.run("describe", "greeter")[0]
    assert re.search(r"info greeter#0 \[[0-9a-f]{32}\]: greeting Ada", terminal.run("logs", "greeter")[0])
    assert "greeter#0 replica_ready" in terminal.run("events")[0]
    assert "did you mean 'greeter'" in terminal.run("logs", "greter", code=2)[1]


def test_plan_knows_what_another_terminal_has_changed(terminal, until):
    """The record that `up` keeps for plans follows each scale, balancer change and apply within moments."""
    terminal.up()
    assert terminal.run("scale", "greeter", "2")[0] == "scaled greeter from 1 to 2\n"
    until(lambda: "~ replicas: 2 -> 1" in terminal.run("plan", terminal.file.name)[0])
    terminal.file.write_text(FILE + '  second: {class: "greeters:Greeter"}\n', encoding="utf-8")
    assert terminal.run("apply")[0].endswith("applied\n")
    until(lambda: "nothing to do, 2 services as configured" in terminal.run("plan", terminal.file.name)[0])


def test_what_runs_is_changed_from_a_second_terminal(terminal):
    """A second terminal can change replicas, balancer and file, and stop the environment; a dry run changes nothing."""
    up = terminal.up()
    assert terminal.run("scale", "greeter", "2", "--dry-run")[0] == "would scale greeter from 1 to 2\n"
    assert terminal.run("scale", "greeter", "2")[0] == "scaled greeter from 1 to 2\n"
    assert terminal.run("restart", "greeter")[0] == "replaced greeter#0, greeter#1\n"
    assert terminal.run("balancer", "greeter", "random", "seed=7", "--dry-run")[0] == (
        "would change the balancer of greeter to random\n"
    )
    assert json.loads(terminal.run("events", "--json")[0].splitlines()[-1])["kind"] != "balancer_changed"
    assert terminal.run("balancer", "greeter", "random", "seed=7")[0] == "changed the balancer of greeter to random\n"
    assert "balancer_changed" in terminal.run("events")[0]
    assert "did you mean 'random'" in terminal.run("balancer", "greeter", "randon", code=2)[1]
    assert "seed" in terminal.run("balancer", "greeter", "random", "sed=7", code=2)[1]
    assert "give KEY=VALUE" in terminal.run("balancer", "greeter", "random", "seed", code=2)[1]
    assert "0 is not in the range" in terminal.run("scale", "greeter", "0", code=2)[1]

    terminal.file.write_text(FILE + '  second: {class: "greeters:Greeter"}\n', encoding="utf-8")
    assert "+ second: add" in terminal.run("apply", "--dry-run")[0]
    assert [row["name"] for row in json.loads(terminal.run("status", "-o", "json")[0])] == ["greeter"]
    assert terminal.run("apply")[0].endswith("applied\n")
    assert [row["name"] for row in json.loads(terminal.run("status", "-o", "json")[0])] == ["greeter", "second"]
    terminal.file.write_text(FILE.replace("class", "clas"), encoding="utf-8")
    assert "greeting.yaml:5:5: error E101" in terminal.run("apply", code=2)[1]

    assert terminal.run("drain", "second")[0] == "stopped second\n"
    (second, first) = json.loads(terminal.run("status", "-o", "json", code=4)[0])
    assert (second["name"], second["state"], first["state"]) == ("second", "stopped", "ready")
    assert terminal.run("down", "--dry-run")[0].startswith("would stop environment greeting")
    assert terminal.run("down")[0].startswith("stopped environment greeting")
    assert up.wait(PATIENCE) == 0
    assert "no environment of yours runs" in terminal.run("status", code=1)[1]


def test_calls_that_were_accepted_are_answered_when_the_environment_is_stopped(terminal, until):
    """`down` waits for calls that were accepted, and their callers get the answers."""
    up = terminal.up()
    held = subprocess.Popen(
        [SAGE_DEPLOY, "call", "greeter.hold"], cwd=terminal.folder, env=terminal.variables, stdout=subprocess.PIPE
    )
    until((terminal.folder / "held").exists)
    terminal.run("down")
    assert held.communicate(timeout=PATIENCE)[0] == b'"held to the end"\n'
    assert (held.returncode, up.wait(PATIENCE)) == (0, 0)


def test_down_waits_for_the_services_to_stop(terminal):
    """When `down` ends, all services have stopped and their process has ended, so the same file can be run again."""
    up = terminal.up()
    assert terminal.run("call", "greeter.stop_slowly")[0]
    terminal.run("down", "--yes")
    assert up.poll() == 0
    up.reader.join(PATIENCE)
    assert any("slowly stopped" in line for line in up.said)


def test_over_http_the_line_that_up_prints_works(terminal):
    """The `curl` line that `up --http` prints works, and the commands work over HTTP with the token."""
    up = terminal.up("--http", "0")
    (line,) = [line.strip() for line in up.said if line.strip().startswith("curl ")]
    url = line.rpartition(" ")[2]
    address = url.removesuffix("/services/greeter/break_off")
    assert url != address
    curl = line.replace("break_off", "greet") + """ -s -d '{"name": "Ada"}'"""
    said = subprocess.run(["sh", "-c", curl], capture_output=True, timeout=PATIENCE, check=True)  # noqa: S607 - a shell of the path
    assert said.stdout == b'"hello Ada "'
    token = Path(line.partition("cat ")[2].partition(")")[0]).read_text(encoding="ascii")
    assert terminal.run("call", "greeter.greet", "name=Bob", "--url", address, "--token", token)[0] == '"hello Bob "\n'
    assert (
        "in SAGE_DEPLOY_TOKEN or with --token"
        in terminal.run("status", "--url", address, "--token", "wrong", code=1)[1]
    )


def test_a_browser_is_opened_with_a_link_that_logs_it_in(terminal, tmp_path):
    """
    `dashboard` opens a browser with a login link and prints it to stderr. `--no-open` only prints it.

    Without HTTP the command says what is missing.
    """
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}.part && mv {seen}.part {seen}\n', encoding="utf-8")
    browser.chmod(0o755)
    terminal.variables["BROWSER"] = f"{browser} %s"
    up = terminal.up("--http", "0")
    out, said = terminal.run("dashboard")
    link = seen.read_text(encoding="utf-8").strip()
    assert (out, link in said) == ("", True)
    assert re.fullmatch(r"http://127.0.0.1:[0-9]+/login\?ticket=\S+", link)
    seen.unlink()
    printed = terminal.run("dashboard", "--no-open", "--read")[0].strip()
    assert printed.startswith(link.partition("=")[0])
    assert not seen.exists()
    terminal.run("down")
    up.wait(PATIENCE)
    terminal.up()
    assert "does not answer over HTTP: start it with --http" in terminal.run("dashboard", code=1)[1]


def test_what_changes_is_shown_as_it_does(terminal):
    """`top` shows calls per second for each service."""
    terminal.file.write_text(FILE.replace("greeter:", "greeter-2:"), encoding="utf-8")
    terminal.up()
    shown = terminal.run("top", "--count", "2", "--interval", "0.2")[0]
    assert "CALLS/S" in shown
    assert re.search(r"greeter-2 +ready +1/1 +0\.0 +0\.0", shown)


def test_of_several_environments_one_is_named(terminal):
    """If several environments run, the commands ask for `--environment`."""
    terminal.up()
    (terminal.folder / "other.yaml").write_text(FILE, encoding="utf-8")
    terminal.up(file="other.yaml")
    said = terminal.run("status", code=1)[1]
    assert "greeting (process " in said
    assert "--environment" in said
    assert terminal.run("status", "-e", "other")[0]
    assert "no environment 'another' runs" in terminal.run("status", "-e", "another", code=1)[1]


def test_what_a_killed_environment_leaves_is_no_environment(terminal):
    """Commands ignore and remove the socket of a killed environment."""
    up = terminal.up("--http", "0")
    up.kill()
    up.wait(PATIENCE)
    assert "no environment of yours runs" in terminal.run("status", code=1)[1]
    assert list((terminal.folder / "state" / "sage-deploy" / "environments").iterdir()) == []


def test_a_stream_of_a_killed_environment_is_no_whole_stream(terminal):
    """If the environment is killed, `call` shows the items of a stream that have come, and fails."""
    up = terminal.up()
    call = subprocess.Popen(
        [SAGE_DEPLOY, "call", "greeter.tick"],
        env=terminal.variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with call:
        assert call.stdout.readline() == "1\n"
        up.kill()
        _, said = call.communicate(timeout=PATIENCE)
    assert call.returncode == 1
    assert said.startswith("Error: the environment does not answer")


@pytest.mark.parametrize("url", ["http://[::1", "http://here:99999", "ftp://here", "http://"])
def test_an_address_that_is_none_is_refused(url):
    """A URL that is no address of a server is bad input, and the message says what is expected."""
    with pytest.raises(click.UsageError, match="give http://HOST:PORT"):
        EnvironmentClient.at_url(url, None)


def test_a_server_that_is_no_environment_is_said_to_be_none():
    """If something else answers at a URL, the error asks whether the address is right."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        client = EnvironmentClient.at_url("{}:{}".format(*other.getsockname()), "☃\n")

        def answer():
            with other.accept()[0] as connection:
                asked.append(connection.recv(1 << 16))
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")

        asked = []
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(click.ClickException, match="is this the address of an environment"):
            client.get("/api/v1/services")
        thread.join(PATIENCE)
    assert "Authorization: Bearer ☃\r\n".encode() in asked[0]


def test_a_suspended_environment_is_named(terminal):
    """Commands do not wait long for a suspended environment: they name its process, and say how it goes on."""
    up = terminal.up()
    up.send_signal(signal.SIGSTOP)
    try:
        said = terminal.run("status", code=1)[1]
    finally:
        up.send_signal(signal.SIGCONT)
    assert f"process {up.pid} does not answer; if it is suspended, `kill -CONT {up.pid}`" in said
    assert terminal.run("status")[0]


def test_logs_are_followed_until_the_environment_ends(terminal):
    """`logs -f` follows the logs until the environment ends."""
    terminal.up()
    follower = subprocess.Popen(
        [SAGE_DEPLOY, "logs", "-f", "--json"],
        cwd=terminal.folder,
        env=terminal.variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    terminal.run("call", "greeter.greet", "name=Ada")
    assert json.loads(follower.stdout.readline())["message"] == "greeting Ada"
    terminal.run("down")
    follower.wait(PATIENCE)
    follower.stdout.close()


def test_a_report_is_one_file(terminal, tmp_path):
    """
    `report` writes one file and replaces an old one; a missing folder is an error. See test_report.py for its content.
    """
    terminal.up()
    terminal.run("call", "greeter.greet", "name=Ada")
    terminal.run("restart", "greeter", "--yes")
    file = tmp_path / "out.html"
    file.write_text("old", encoding="utf-8")
    assert terminal.run("report", "-o", str(file)) == ("", f"wrote {file}\n")
    page = file.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    for each in ("greeter#0.1", "greeting Ada", "restart by socket", "threading_strategy"):
        assert each in page
    assert "cannot be written" in terminal.run("report", "-o", str(tmp_path / "gone" / "out.html"), code=1)[1]


COMPLETED = {
    "describe gr": ["greeter"],
    "describe x": [],
    "call greeter.h": ["greeter.hold"],
    "logs -e gree": ["greeting"],
    "scale -e greeting g": ["greeter"],
    "scale -e another g": [],
    "restart greeter --replica gr": ["greeter#0"],
    "balancer gr": ["greeter"],
    "balancer greeter ra": ["random"],
    "balancer greeter x": [],
}


def test_shells_complete_the_names_of_what_runs(terminal):
    """Shells complete the names of environments, services, replicas, methods and balancers that run, and no others."""
    terminal.up()
    terminal.variables["_SAGE_DEPLOY_COMPLETE"] = "bash_complete"
    completed = {}
    for line in COMPLETED:
        words = ["sage-deploy", *line.split()]
        terminal.variables |= {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        completed[line] = [each.partition(",")[2] for each in terminal.run()[0].split()]
    assert completed == COMPLETED
