"""The library installs no signal handlers, and those of the program work with an environment."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

PATIENCE = 30.0

PROGRAM = """
    import signal
    import sys
    import threading

    import sage_deploy_local, sage_deploy_monitors, sage_deploy_threading
    from sage_plugins import Environment, ServiceDeploymentConfig
    from sage_plugins.plugins.registry import Registry

    STARTED = threading.Event()
    GO_ON = threading.Event()

    class Service:
        def work(self):
            STARTED.set()
            GO_ON.wait()
            return "worked"

        def stop(self):
            print("stop hook ran\\n", end="", flush=True)

    def tell(call):
        print(f"{call.result()}\\n", end="", flush=True)

    def handler(number, frame):
        GO_ON.set()
        sys.exit(0)

    signal.signal(signal.SIGTERM, handler)
    registry = Registry.of(sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)
    with Environment("program", registry=registry) as env:
        config = ServiceDeploymentConfig(target="local", threading_strategy="single")
        env.register_service_with_config("svc", Service, deployment_config=config)
        env.deploy()
        assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        call = env.service("svc").submit("work")
        call.add_done_callback(tell)
        STARTED.wait()
        print("running", flush=True)
        threading.Event().wait()
"""


@pytest.fixture
def start(program):
    """Starts a program and waits until its service runs a call. Kills what is left at the end of the test."""
    processes = []

    def make(source):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(program(source), **pipes, text=True, start_new_session=True)
        processes.append(process)
        assert process.stdout.readline() == "running\n", process.communicate(timeout=PATIENCE)[1]
        return process

    yield make
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_handler_that_exits_drains_what_was_accepted(start):
    """`deploy` keeps the program's handler. If the handler exits, leaving `with` finishes calls and runs stop hooks."""
    running = start(PROGRAM)
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=PATIENCE)
    assert (running.returncode, err) == (0, "")
    assert sorted(out.splitlines()) == ["stop hook ran", "worked"]


#: Prints when it drains, with a `drain_timeout` of an hour.
HANGING = (
    PROGRAM.replace("        GO_ON.set()\n", "")
    .replace('threading_strategy="single"', 'threading_strategy="single", timeout=None, drain_timeout=3600')
    .replace("call.add_done_callback(tell)", "tell_later(env)")
    .replace(
        "    signal.signal(",
        """    def tell(env):
        while env.task("svc").state == "ready":
            threading.Event().wait(0.01)
        print("draining", flush=True)

    def tell_later(env):
        threading.Thread(target=tell, args=(env,), daemon=True).start()

    signal.signal(""",
        1,
    )
)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_second_signal_ends_a_drain(start):
    """A second signal ends the drain, and the interpreter does not wait for a method that hangs."""
    running = start(HANGING)
    running.send_signal(signal.SIGTERM)
    assert running.stdout.readline() == "draining\n"
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=PATIENCE)
    assert (running.returncode, out, err) == (0, "", "")


#: Drains its only service, whose method ends once the second line is printed.
DRAINING = """
    import signal
    import sys
    import threading

    import sage_deploy_local, sage_deploy_monitors, sage_deploy_threading
    from sage_plugins import Environment
    from sage_plugins.plugins.registry import Registry

    GO_ON = threading.Event()

    class Service:
        def work(self):
            main = threading.main_thread().ident
            while env.task("svc").state != "draining" or sys._current_frames()[main].f_code.co_name != "wait":
                GO_ON.wait(0.01)  # until the drain waits for this call
            GO_ON.wait(0.1)  # Python handles a signal that comes just before a wait only after it
            print("running", flush=True)
            GO_ON.wait()

        def stop(self):
            print("stop hook ran", flush=True)

    class InterruptedError(BaseException):
        pass

    def handler(number, frame):
        HANDLER

    signal.signal(signal.SIGTERM, handler)
    registry = Registry.of(sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)
    env = Environment("program", registry=registry)
    env.register_service("svc", Service)
    env.service("svc").submit("work")
    try:
        env.drain("svc", 1000)
    except InterruptedError:
        print("interrupted", flush=True)
    print(env.task("svc").state, *[each.name for each in threading.enumerate() if "svc" in each.name], flush=True)
    env.close()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("handler", "printed"),
    [
        ("GO_ON.set(); raise InterruptedError", ["stop hook ran", "interrupted"]),
        ("GO_ON.set(); env.close()", ["stop hook ran"]),
    ],
)
def test_handler_that_interrupts_a_drain_or_closes_meanwhile_leaves_no_replica(start, handler, printed):
    """If a signal handler raises in the middle of a drain, or closes the environment there, all replicas stop."""
    running = start(DRAINING.replace("HANDLER", handler))
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=PATIENCE)
    assert (running.returncode, err, out.splitlines()) == (0, "", [*printed, "stopped"])
