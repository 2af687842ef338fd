"""The extension `server`: the options of an environment start it, with its own token."""

from __future__ import annotations

import http.client
import os
import socket
import stat
import subprocess

import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_server
import sage_deploy_threading
from sage_deploy_server.running.environment_files import EnvironmentFiles, listening_sockets
from sage_plugins import Environment, errors
from sage_plugins.plugins.registry import Registry


class Desk:
    def greet(self, name):
        return f"hello {name}"


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Return an environment with the server on a free port."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    registry = Registry.of(
        sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_server, sage_deploy_threading
    )

    def serve(*, of=Desk, **options):
        env = Environment("served", registry=registry, options={"server": {"http": "127.0.0.1:0", **options}})
        env.register_service("desk", of)
        env.deploy()
        return env

    return serve


def status_of(env, token):
    url = env._extensions._running["server"].url.removeprefix("http://")
    connection = http.client.HTTPConnection(url, timeout=20)
    connection.request("POST", "/services/desk/greet", b'["Ada"]', {"Authorization": f"Bearer {token}"})
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_token_lies_in_a_file_of_the_user_and_goes_with_the_environment(serve, tmp_path):
    """The token is in a file that only the user can read; the file goes when the environment closes."""
    with serve() as env:
        folder = tmp_path / "sage-deploy" / "environments"
        listening, file = sorted(folder.iterdir())
        assert [stat.S_IMODE(each.stat().st_mode) for each in (folder, listening, file)] == [0o700, 0o600, 0o600]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert status_of(env, file.read_text()) == 200
        assert status_of(env, "x" * 64) == 401
    assert list(folder.iterdir()) == []


def test_a_token_may_be_given(serve, tmp_path, monkeypatch):
    """A token from the variable is used, and no file is written for it."""
    monkeypatch.setenv("SAGE_DEPLOY_TOKEN", "mine")
    with serve() as env:
        assert status_of(env, "mine") == 200
        assert [each.suffix for each in (tmp_path / "sage-deploy" / "environments").iterdir()] == [".sock"]


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("def greet(self, name): return f'hello {name}'", b'"hello ..."'),
        ("def double(self, number: int): return 2 * number", b"2"),
        ("def all(self): return 'all'\n    def a(self, number): return number", b'"all"'),
        ("def first(self, items: list[int], n=1): return items[:n]", b"[]"),
    ],
)
def test_the_printed_example_is_a_call_that_works(serve, caplog, source, answer):
    """The `curl` line that the extension logs calls the method with the fewest required arguments, and gives these."""
    namespace = {}
    exec(f"class Made:\n    {source}", namespace)  # noqa: S102 - the sources above
    caplog.set_level("INFO", "sage.extension.server")
    with serve(of=namespace["Made"]):
        (line,) = [line for line in caplog.text.splitlines() if line.startswith("curl ")]
        done = subprocess.run(["sh", "-c", f"{line} -s"], capture_output=True, timeout=20, check=True)  # noqa: S607 - a shell of the path
    assert done.stdout == answer


def test_services_run_where_no_socket_can_be_made(serve, monkeypatch, caplog):
    """If no socket can be made, services still run and a warning is logged; HTTP works only with a given token."""
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    with serve(http=None) as env:
        assert env.service("desk").greet("Ada") == "hello Ada"
    assert "cannot reach" in caplog.text
    with pytest.raises(errors.DeployError, match="SAGE_DEPLOY_TOKEN"):
        serve()
    monkeypatch.setenv("SAGE_DEPLOY_TOKEN", "mine")
    with serve() as env:
        assert status_of(env, "mine") == 200


def test_a_port_that_is_taken_is_said_and_nothing_is_left(serve, tmp_path):
    """A port in use fails the deployment with that reason and a remedy, and no files are left."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(errors.DeployError, match=r"port \d+ of 127.0.0.1 is in use; choose another port"):
            serve(http="{}:{}".format(*taken.getsockname()))
        assert list((tmp_path / "sage-deploy" / "environments").iterdir()) == []


@pytest.mark.parametrize("http_at", ["0.0.0.0:0", "here", "1.2.3.4:99999"])
def test_an_address_that_will_not_do_is_refused(serve, http_at):
    """An address that is invalid, or open without `allow_hosts`, is refused."""
    with pytest.raises(Exception, match=r"allow_hosts|is no address"):
        serve(http=http_at)


def test_an_environment_whose_process_id_is_unknown_here_is_found(monkeypatch, tmp_path):
    """An environment in another container is found, and keeps its files: its process ID means nothing here."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(os, "getpid", lambda: 2**30)  # no system has so many
        elsewhere.setattr(socket, "gethostname", lambda: "container")
        files = EnvironmentFiles("0" * 32)
        with files.listen():
            elsewhere.undo()
            assert listening_sockets() == [files.socket]
    assert listening_sockets() == []
    assert files.socket.exists(), "only its own machine knows that the process is dead"
    monkeypatch.setattr(socket, "gethostname", lambda: "container")
    assert listening_sockets() == []
    assert not files.socket.exists()


def test_an_environment_that_ends_hides_no_other(monkeypatch, tmp_path):
    """While one environment ends, commands still find the others."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    files = EnvironmentFiles("0" * 32)
    with files.listen():
        files.socket.with_name("1-ended.sock").symlink_to("nothing")  # as if it went after the folder was read
        assert listening_sockets() == [files.socket]
