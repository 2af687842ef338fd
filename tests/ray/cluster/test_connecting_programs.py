"""Programs of their own connect to Ray: who starts and ends it, which clusters are refused, and a lost head."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import ray

from own_head import OwnHead
from ray_cluster import title_of

pytestmark = pytest.mark.ray

#: The beginning of every program. On a busy machine it takes seconds to join a cluster.
PREFACE = """
    import os, signal, sys, threading, time
    from functools import partial
    from sage_deploy_ray.cluster.connection import connect
    from sage_plugins.errors import *
    connect = partial(connect, control_timeout=20)
    address = sys.argv[1]
"""


@pytest.fixture
def in_process(tmp_path, ray_folder):
    """Run a program in its own process, with *address* as its argument; return its output."""

    def run(source, address="", rc=0, **variables):
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(PREFACE) + textwrap.dedent(source), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, path, address],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == rc, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        assert "SIGTERM received" not in done.stderr, "Ray's handler is at work"
        return done.stdout

    return run


# -- a Ray of our own ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runtime_of_its_own_ends_with_the_last_user(in_process):
    """A runtime started without an address is shared, and its processes end with the last user."""
    said = in_process(
        """
        first = connect(control_timeout=0.1)
        second = connect()
        import ray
        print(first.owned, [node.name == node.address for node in second.nodes()])
        first.release()
        print(ray.is_initialized())
        second.release()
        print(ray.is_initialized(), [t.name for t in threading.enumerate() if t.name.startswith("sage-ray")])
        """
    )

    assert said.splitlines() == ["True [True]", "True", "False []"]


@pytest.mark.slow
def test_forgotten_connection_keeps_no_process_and_does_not_hang_the_interpreter(in_process, ray_folder):
    """A connection that is never released leaves no process and does not block the interpreter's exit."""
    said = in_process("mine = connect(); import ray; print(ray.nodes()[0]['RayletSocketName'])")

    session = said.rpartition("/sockets/")[0]
    assert session.startswith(f"{ray_folder}/")
    processes = [pid for pid in os.listdir("/proc") if pid.isdecimal()]  # noqa: PTH208 - no files
    assert not [pid for pid in processes if session in title_of(int(pid))]


@pytest.mark.slow
def test_token_of_a_runtime_of_its_own_is_for_this_user_alone(in_process, tmp_path):
    """Other users cannot read the token that Ray makes for a runtime of its own, so there is no warning about it."""
    said = in_process(
        """
        import logging
        from pathlib import Path
        logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
        connect().release()
        print(oct(Path("~/.ray/auth_token").expanduser().stat().st_mode))
        """,
        HOME=str(tmp_path),
        RAY_AUTH_MODE="token",
    )

    assert "can read the token" not in said
    assert said.splitlines()[-1] == "0o100600"


def test_joined_cluster_is_left_by_the_last_user(in_process, cluster):
    """A joined cluster is left when the last connection is released, and can be joined again."""
    said = in_process(
        """
        first, second = connect(address=address), connect(address=address)
        import ray
        print(first.owned, len(first.nodes()), ray.get_runtime_context().namespace)
        first.release()
        print(ray.is_initialized())
        second.release()
        print(ray.is_initialized())
        again = connect(address=address)
        print(len(again.nodes()))
        again.release()
        """,
        cluster.address,
    )

    assert said.splitlines() == ["True 4 sage-deploy", "True", "False", "4"]


def test_ray_that_the_program_shuts_down_is_not_started_by_a_question(in_process, cluster):
    """
    After `ray.shutdown()`, a question fails and starts no new runtime, as Ray would. A new connection starts it again.
    """
    said = in_process(
        """
        mine = connect(address=address)
        import ray
        ray.shutdown()
        try:
            mine.nodes()
        except ClusterUnavailableError as error:
            print(error)
        print(ray.is_initialized())
        again = connect(address=address)
        mine.release()
        print(len(again.nodes()))
        again.release()
        """,
        cluster.address,
    )

    error, *others = said.splitlines()
    assert error.startswith(f"Ray was shut down in this process, so the cluster at {cluster.address} cannot be asked")
    assert others == ["False", "4"]


def test_variable_names_the_cluster_where_the_options_do_not(in_process, cluster):
    """Without an address in the options, RAY_ADDRESS names the cluster."""
    said = in_process("mine = connect(); print(mine.address); mine.release()", RAY_ADDRESS=cluster.address)

    assert said.split() == [cluster.address]


@pytest.mark.parametrize("thread", ["main", "other"])
def test_sigterm_does_what_it_did_before(in_process, cluster, thread):
    """SIGTERM still calls Python's handler, and not Ray's C++ handler, which would end the process after 3 s."""
    said = in_process(
        f"""
        import ctypes
        def action():  # the pointer to the handler, with which `struct sigaction` begins
            found = ctypes.create_string_buffer(1024)
            assert ctypes.CDLL(None).sigaction(signal.SIGTERM, None, found) == 0
            return found.raw[:8]
        received = []
        signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
        before = action()
        made = []
        if {thread == "main"}:
            made.append(connect(address=address))
        else:
            worker = threading.Thread(target=lambda: made.append(connect(address=address)))
            worker.start()
            worker.join()
        print(action() == before)
        os.kill(os.getpid(), signal.SIGTERM)
        print(received)
        made[0].release()
        print(action() == before)
        """,
        cluster.address,
    )

    assert said.splitlines() == ["True", "[15]", "True"]


def test_forked_child_is_refused(in_process, cluster):
    """A forked child cannot use the connection or make one."""
    said = in_process(
        """
        mine = connect(address=address)
        child = os.fork()
        if child == 0:
            for attempt in (connect, mine.nodes):
                try:
                    attempt()
                except ForkedRuntimeError as error:
                    print(error, flush=True)
            mine.release()
            os._exit(0)
        print(os.waitpid(child, 0)[1], len(mine.nodes()))
        mine.release()
        """,
        cluster.address,
    )

    *errors, last = said.splitlines()
    assert len(errors) == 2
    assert all("fork before deploying" in error for error in errors)
    assert last == "0 4"


# -- clusters that cannot be used ------------------------------------------------------------------------------------


REFUSED = """
    def refused(address):
        try:
            connect(address=address)
        except ClusterUnavailableError as error:
            print(error)
"""


def test_address_without_a_cluster_is_refused(in_process):
    """An address without a cluster is refused with the reason."""
    addresses = ["nonsense", "ray://127.0.0.1:10001", "127.0.0.1:1"]  # the last one: Ray may go on trying it
    said = in_process(textwrap.dedent(REFUSED) + f"for each in {addresses}: refused(each)")

    nonsense, client, closed = said.splitlines()
    assert "'nonsense' is no address of a Ray cluster" in nonsense
    assert "is an address of Ray Client" in client
    assert "no Ray cluster can be reached at 127.0.0.1:1: ConnectionRefusedError" in closed


def test_other_versions_are_refused(in_process, cluster):
    """A cluster with another Ray version is refused with both versions; one with known security holes, with its own."""
    versions = ["2.55.1", "2.53.0"]
    source = f"""
        import ray
        for ray.__version__ in {versions}:
            refused(address)
    """
    said = in_process(textwrap.dedent(REFUSED) + textwrap.dedent(source), cluster.address)

    another, unsafe = said.split("Ray 2.53.0", 1)
    assert "runs another version than this process" in another
    assert "2.55.1" in another
    assert ray.__version__ in another
    assert unsafe.startswith(" is older than 2.54")


@pytest.mark.slow  # half a minute, most of it Ray's own
def test_token_is_asked_for_and_its_file_is_looked_at(in_process, ray_folder, tmp_path):
    """A cluster that needs a token is refused without one; a token file that others can read causes a warning."""
    token = tmp_path / "token"
    token.write_text("c0ffee" * 8, encoding="ascii")
    token.chmod(0o644)
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    with OwnHead(ray_folder, **secret) as head:
        impatient = REFUSED.replace("address=address", "address=address, control_timeout=3") + "    refused(address)"
        without = in_process(impatient, head.address, RAY_AUTH_MODE="disabled")
        with_it = in_process(
            """
            import logging
            logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
            mine = connect(address=address, auth="token")
            print(len(mine.nodes()), "node")
            mine.release()
            """,
            head.address,
            **secret | {"RAY_AUTH_MODE": "disabled"},
        )

    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in without
    assert "here RAY_AUTH_MODE is disabled" in without
    assert "1 node" in with_it
    assert f"WARNING Ray: others on this machine can read the token of the cluster: {token}" in with_it
    assert "asks for no token" not in with_it


# -- the head is gone ------------------------------------------------------------------------------------------------


#: Ray read at its import that 1 s without the head is the end, so it must be told about the change.
IMPORTED_BEFORE = """
    os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"] = "1"
    import ray
    del os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"]
"""
HEAD_IS_LOST = """
    import ray
    joined = connect(address=address)
    mine = connect(control_timeout=1)
    @ray.remote(num_cpus=0.01)
    class Actor:
        def answer(self):
            return 42
    actor = Actor.remote()
    print(ray.get(actor.answer.remote()), flush=True)
    sys.stdin.readline()
    started = time.monotonic()
    for _ in range(2):
        try:
            mine.nodes()
        except ClusterUnavailableError as error:
            print(error)
    print(time.monotonic() - started < 4)
    pause = threading.Event()
    until = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < until:
        pause.wait(0.5)
        assert ray.get(actor.answer.remote(), timeout=5) == 42
    print("alive", flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize(
    ("seconds", "before"),
    [(4, IMPORTED_BEFORE), pytest.param(70, "", marks=[pytest.mark.slow, pytest.mark.timeout(150)])],
    ids=["imported before", "longer than Ray's default"],
)
def test_head_is_lost(ray_folder, tmp_path, seconds, before):
    """Without the head, replicas answer and questions fail in time. The process lives; Ray would end it after 60 s."""
    path = tmp_path / "program.py"
    path.write_text("".join(map(textwrap.dedent, (PREFACE, before, HEAD_IS_LOST))), encoding="utf-8")
    with (
        OwnHead(ray_folder, RAY_gcs_rpc_server_reconnect_timeout_s="600") as head,
        subprocess.Popen(
            [sys.executable, path, head.address, str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as driver,
    ):
        assert driver.stdout.readline() == "42\n"
        head.lose()
        said, _ = driver.communicate("\n")

    assert driver.returncode == 0
    *errors, in_time, alive = said.splitlines()
    assert (in_time, alive) == ("True", "alive")
    assert len(errors) == 2
    for error in errors:
        assert f"the Ray cluster at {head.address} did not say which nodes it has within 1 s: its head is gone" in error


def test_time_without_the_head_is_long_unless_the_user_said_otherwise(in_process, cluster):
    """The time without the head is set to a day, unless the user has set it."""
    source = """
        mine = connect(address=address)
        print(os.environ["RAY_gcs_rpc_server_reconnect_timeout_s"])
        mine.release()
    """

    assert in_process(source, cluster.address).split() == ["86400"]
    assert in_process(source, cluster.address, RAY_gcs_rpc_server_reconnect_timeout_s="7").split() == ["7"]
