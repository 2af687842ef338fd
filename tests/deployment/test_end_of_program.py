"""The interpreter exits without `close`, and a forked child does not use its parent's services."""

from __future__ import annotations

import os
import subprocess
import textwrap

import pytest

# -- the end of the interpreter ----------------------------------------------------------------------------------------


PROGRAM = """
    import asyncio, contextlib, threading
    from sage_plugins import Environment, ServiceDeploymentConfig, errors

    class Service:
        def __init__(self, strategy, entered):
            self.strategy, self.entered = strategy, entered

        def hang(self):
            self.entered.set()
            threading.Event().wait()

        async def ahang(self):
            self.entered.set()
            await asyncio.Event().wait()

        def fine(self):
            return "fine"

        def cleanup(self):
            print("cleanup", self.strategy, flush=True)

    def end(strategy, handle, entered):
        def quietly(method="hang"):
            with contextlib.suppress(errors.ServiceStoppedError):
                handle.call(method)

        def hang(method):
            if strategy == "inline":
                threading.Thread(target=quietly, args=(method,), daemon=True).start()
            else:
                handle.submit(method)
            entered.wait()

        async def give_up(method):
            task = asyncio.ensure_future(handle.acall(method))
            await asyncio.to_thread(entered.wait)
            task.cancel()
            await asyncio.wait([task])

        print(handle.fine(), flush=True)
        {ending}

    env = Environment("test")
    for strategy in {strategies!r}:
        entered = threading.Event()
        config = ServiceDeploymentConfig(threading_strategy=strategy, timeout=1000.0)
        env.register_service_with_config(strategy, Service, strategy, entered, deployment_config=config)
        end(strategy, env.service(strategy), entered)
    print("end", flush=True)
"""

ENDING_STRATEGIES = ("single", "multi", "pool", "async", "inline")
ENDINGS = {
    "idle": "pass",
    "stuck": 'hang("hang")',
    "stuck async": 'hang("ahang")',
    "stuck acall": 'asyncio.run(give_up("hang"))',
    "waiting caller": 'hang("hang"); threading.Thread(target=quietly, daemon=True).start()',
}


def exits(program, ending, strategies):
    """Run a program that never calls `close` to its end. Return the lines that it prints."""
    command = program(PROGRAM.format(ending=ENDINGS[ending], strategies=strategies))
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("ending", ENDINGS)
def test_interpreter_exits_without_close(program, ending):
    """Without `close` the interpreter still exits, even while methods hang under each strategy."""
    out = exits(program, ending, ENDING_STRATEGIES)
    before = [*["fine"] * len(ENDING_STRATEGIES), "end"]
    assert out[: len(before)] == before
    if ending == "idle":
        stopped = {f"cleanup {strategy}" for strategy in ENDING_STRATEGIES}
        assert set(out[len(before) :]) == stopped, "the services were stopped"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ENDING_STRATEGIES)
@pytest.mark.parametrize("ending", ENDINGS)
def test_interpreter_with_one_service_exits_without_close(program, strategy, ending):
    """It also exits with one such service alone."""
    out = exits(program, ending, (strategy,))
    assert out[:2] == ["fine", "end"]
    if ending == "idle":
        assert out[2:] == [f"cleanup {strategy}"], "the service was stopped"


NEEDED_AT_EXIT = """
    import atexit
    import sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading
    from sage_deploy_local.target import LocalTarget
    from sage_plugins import Environment, ServiceDeploymentConfig, hookimpl
    from sage_plugins.plugins.registry import Registry
    from sage_plugins.values import Registration

    class Service:
        def method(self):
            return 1

        def stop(self):
            print("service stops")

    class Target(LocalTarget):
        def start(self, *args):
            atexit.register(print, "runtime ends")
            return super().start(*args)

    class Plugin:
        @hookimpl
        def sage_register_targets(self):
            return [Registration("other", lambda _: Target(), "Of the test", capabilities=frozenset({"in_process"}))]

    registry = Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, Plugin())
    env = Environment("test", registry=registry)
    env.register_service_with_config("svc", Service, deployment_config=ServiceDeploymentConfig(target="other"))
    env.service("svc").method()
"""


def test_forgotten_environment_is_closed_before_what_its_target_needs_ends(program):
    """An environment that was not closed is closed at exit before its target's runtime ends, such as Ray."""
    done = subprocess.run(program(NEEDED_AT_EXIT), capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["service stops", "runtime ends"]


# -- fork --------------------------------------------------------------------------------------------------------------


FORKED = """
    import os, threading, warnings
    from sage_plugins import Environment, ServiceDeploymentConfig, errors
    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of every fork beside threads

    class Service:
        def run(self, function):
            return function()

        def hang(self, seconds):
            threading.Event().wait(seconds)

    class Other:
        def fine(self):
            return "fine"

    def failing(attempt):
        try:
            attempt()
        except errors.ForkedRuntimeError as error:
            return "ForkedRuntimeError" if "fork" in str(error) else str(error)
        except BaseException as error:
            return repr(error)
        return "no error"

    env = Environment("test")
    env.register_service_with_config(
        "svc", Service, deployment_config=ServiceDeploymentConfig(threading_strategy={strategy!r})
    )
    env.deploy()
    used, unused = env.service("svc"), env.service("svc")
    used.run(int)
    {before}
    child = os.fork()
    if child == 0:
        print(failing(lambda: used.run(int)))
        print(failing(lambda: used.submit("run", int)))
        print(failing(lambda: used.with_options(timeout=1).run(int)))
        print(failing(lambda: unused.run(int)))
        print(failing(lambda: env.service("svc").run(int)))
        print(failing(lambda: env.call_service("svc", int, method="run")))
        with Environment("child") as own:
            own.register_service("other", Other)
            own.register_service("slow", Service)
            print(own.service("other").fine())
            try:
                own.service("slow").with_options(timeout=0.02).hang(0.05)
            except errors.CallTimeoutError as error:
                print(error.stage)
        print("child ends", flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    {after}
    print(used.run(lambda: "parent lives"), os.waitstatus_to_exitcode(status))
    env.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform does not fork")
@pytest.mark.parametrize("held", [False, True], ids=["quiet", "busy"])
def test_fork(program, strategy, held):
    """In a forked child the parent's services raise ForkedRuntimeError and new ones work. The parent is unaffected."""
    before = after = "pass"
    if held:
        # When the process forks, another thread holds the locks of calls and of the environment.
        before = (
            "import sage_plugins.call.call as module; held = threading.Event(); go = threading.Event()\n"
            "    locks = [each for each in vars(module).values() if type(each) is type(threading.Lock())]\n"
            "    locks += [env._services.lock, env._services.catalogue._lock]\n"
            "    def hold():\n"
            "        for lock in locks: lock.acquire()\n"
            "        held.set(); go.wait()\n"
            "        for lock in locks: lock.release()\n"
            "    threading.Thread(target=hold).start(); held.wait()"
        )
        after = "go.set()"
    text = textwrap.dedent(FORKED).format(
        strategy=strategy, before=textwrap.dedent(before.replace("\n    ", "\n")), after=after
    )
    done = subprocess.run(program(text), capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        *["ForkedRuntimeError"] * 6,
        "fine",
        "run",
        "child ends",
        "parent lives 0",
    ]
