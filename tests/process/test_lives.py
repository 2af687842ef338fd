"""Child processes end with the program that started them, however it was started and however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent

import pytest

from killing import is_gone
from sage_plugins import Environment, errors

pytestmark = pytest.mark.timeout(180)

#: Has no `__main__` guard: a child that ran it again would start its own children.
PROGRAM = """
    import os
    from sage_plugins import Environment, ServiceDeploymentConfig

    UNIT = "EUR"

    class Price:
        def __init__(self, cents):
            self.text = f"{cents} {UNIT}"

    class Till:
        def price(self, cents):
            return Price(cents)

        def pid(self):
            return os.getpid()

    with Environment("program") as env:
        env.register_service_with_config("till", Till, deployment_config=ServiceDeploymentConfig(target="process"))
        till = env.service("till")
        price = till.price(3)
        print(isinstance(price, Price), price.text, till.pid() != os.getpid())
"""


def started_as(way, folder):
    """Return the command that runs `PROGRAM` in that way, and its input."""
    program = dedent(PROGRAM)
    (folder / "program.py").write_text(program)
    cell = f"exec(compile({program!r}, '<cell 1>', 'exec'), vars(__import__('__main__')))"  # as a notebook does
    commands = {"script": ["program.py"], "-m": ["-m", "program"], "-c": ["-c", program], "cell": ["-c", cell]}
    return commands.get(way, ["-"]), program if way == "stdin" else None


@pytest.mark.parametrize("way", ["script", "stdin", "-m", "-c", "cell"])
def test_classes_of_the_main_module_are_served(way, tmp_path):
    """Classes of `__main__` work in replicas, however the program was started; the program's code runs only once."""
    command, read = started_as(way, tmp_path)
    done = subprocess.run(
        [sys.executable, *command], input=read, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.stdout, done.stderr) == ("True 3 EUR True\n", "")


#: The replicas: one is stopped, one never releases the interpreter lock, and one has its own child process. A forked
#: copy of the program lives on.
PARENT = """
    import os, re, signal, subprocess, sys, time
    from sage_plugins import Environment, ServiceDeploymentConfig

    class Service:
        def stop_still(self):
            os.kill(os.getpid(), signal.SIGSTOP)

        def hold_the_lock(self):
            print(os.getpid(), flush=True)
            re.match("(a|a)*$", 100 * "a" + "b")

        def have_child(self):
            print(subprocess.Popen(["sleep", "1000"]).pid, flush=True)

    env = Environment("parent")
    for name in ("still", "busy", "parent"):
        env.register_service_with_config(
            name, Service, deployment_config=ServiceDeploymentConfig(target="process", timeout=None)
        )
    env.deploy()
    print(*(env.get_service_status(name)["replicas"][0]["pid"] for name in ("still", "parent")), flush=True)
    env.service("parent").have_child()
    forked = os.fork()
    if not forked:
        time.sleep(1000)
    print(forked, flush=True)
    env.service("still").submit("stop_still")
    env.service("busy").hold_the_lock()
"""


def test_nothing_is_left_when_the_program_is_killed(tmp_path):
    """When the program is killed, its replicas end, even stopped or busy ones, and so do their children."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", dedent(PARENT)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as program:
        still, parent = program.stdout.readline().split()
        child, forked, busy = (program.stdout.readline() for _ in range(3))
        try:
            until = time.monotonic() + 20
            while Path(f"/proc/{still}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                assert time.monotonic() < until
            program.kill()
            while not all(is_gone(int(pid)) for pid in (still, parent, child, busy)):
                assert time.monotonic() < until
            assert not is_gone(int(forked))
        finally:
            os.kill(int(forked), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_death_of_a_replica_that_has_forked_is_noticed():
    """The calls of a killed replica end at once, even if it has forked, as the workers of a data loader are."""

    class Forks:
        def fork(self):
            forked = os.fork()
            if not forked:
                time.sleep(1000)
            return os.getpid(), forked

        def hold(self):
            time.sleep(1000)

    with Environment("test") as env:
        env.register_service_with_config("svc", Forks, deployment_config={"target": "process"})
        forks = env.service("svc").with_options(timeout=60)
        pid, forked = forks.fork()
        call = forks.submit("hold")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(errors.ReplicaDiedError):
            call.result()
        assert forks.fork()[0] != pid
        assert is_gone(forked)


INTERRUPTED = """
    import signal
    from sage_plugins import Environment, ServiceDeploymentConfig

    class Service:
        def echo(self, value):
            return value

        def stop(self):
            print("stopped")

    with Environment("interrupted") as env:
        env.register_service_with_config("svc", Service, deployment_config=ServiceDeploymentConfig(target="process"))
        env.deploy()
        try:
            print("deployed", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            print(env.service("svc").echo("answered"), flush=True)
"""


def test_interrupt_from_the_terminal_reaches_the_parent_alone():
    """
    Ctrl-C reaches only the parent, although the terminal signals the whole group. The parent then stops its replicas.
    """
    command = [sys.executable, "-c", dedent(INTERRUPTED)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as program:
        assert program.stdout.readline() == "deployed\n"
        os.killpg(program.pid, signal.SIGINT)
        assert program.stdout.read() == "answered\nstopped\n"
    assert program.returncode == 0


def test_next_program_removes_the_sockets_that_a_killed_one_has_left():
    """The next program removes the sockets of a killed program and of its replicas, and keeps those of running ones."""
    command = [sys.executable, "-c", dedent(INTERRUPTED)]

    @contextmanager
    def running(temporary):
        environment = {**os.environ, "TMPDIR": temporary}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as program:
            try:
                assert program.stdout.readline() == "deployed\n"
                yield program
            finally:
                program.kill()

    with TemporaryDirectory() as temporary:  # the path of a socket must be short
        with running(temporary) as program:
            left = set(Path(temporary).iterdir())
            replica = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text()
        until = time.monotonic() + 20
        while not is_gone(int(replica)):
            assert time.monotonic() < until
        with running(temporary):
            lives = set(Path(temporary).iterdir())
            assert (len(left), len(lives)) == (2, 2)
            assert not left & lives
            with running(temporary):
                assert lives < set(Path(temporary).iterdir())


CROWDED = """
    import resource
    from sage_plugins import Environment, ServiceDeploymentConfig, errors

    class Service:
        def echo(self, value):
            return value

    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    with Environment("crowded") as env:
        config = ServiceDeploymentConfig(target="process", replicas=30)
        env.register_service_with_config("svc", Service, deployment_config=config)
        try:
            env.deploy()
        except errors.DeployError as error:
            print(error)
        env.register_service_with_config("one", Service, deployment_config=ServiceDeploymentConfig(target="process"))
        print(env.service("one").echo("and one fits"))
"""


def test_want_of_file_descriptors_is_said():
    """
    Without free file descriptors, the error says what to do. All that was started is ended, so one replica fits then.
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(CROWDED)], capture_output=True, text=True, check=False, timeout=120
    )
    assert "cannot be started: Too many open files: this process may have 40 files open" in done.stdout, done.stderr
    assert "Raise the limit (ulimit -n), or have fewer replicas" in done.stdout
    assert done.stdout.endswith("and one fits\n"), done.stderr
