"""The leak guard fails tests that leak, names the leak, and lets all other tests pass."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from sage_deploy_testing.tools import leak_guard
from sage_deploy_testing.tools.leak_guard import Resources

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the platform does not list descriptors")

# These tests run in a subprocess: what they leak must not stay in this process.
LEAKING = """
    import asyncio, os, socket, subprocess, sys, threading
    import pytest
    from sage_deploy_testing.tools import leak_guard

    leak_guard.GRACE_S = 0.1
    kept = []

    def started(name, daemon=True, until=None):
        thread = threading.Thread(target=(until or threading.Event()).wait, name=name, daemon=daemon)
        thread.start()
        return thread

    def test_leaves_thread():
        started("forgotten-worker")

    def test_leaves_socket():
        kept.append(socket.socket())

    def test_leaves_file(tmp_path):
        kept.append(open(tmp_path / "left-open.txt", "w"))

    def test_leaves_task():
        loop = asyncio.new_event_loop()
        kept.append(loop)
        kept.append(loop.create_task(asyncio.sleep(3600), name="forgotten-task"))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    def test_leaves_child():
        kept.append(subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE))

    def test_leaves_zombie():
        child = subprocess.Popen([sys.executable, "-c", ""])
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        kept.append(child)

    @pytest.mark.leaves_threads("the call cannot be stopped", prefix="kv#")
    def test_leaves_other_thread_than_declared():
        started("stranger-1")

    @pytest.mark.leaves_threads("the call cannot be stopped", prefix="kv#")
    def test_leaves_no_daemon():
        until = threading.Event()
        thread = started("kv#0-worker", daemon=False, until=until)
        # Lets the interpreter end.
        end = lambda: (threading.main_thread().join(), until.set())
        threading.Thread(target=end, daemon=True, name="kv#0-x").start()

    @pytest.fixture(scope="module")
    def careless():
        started("careless-fixture")

    class TestCareless:
        def test_runs_in_peace(self, careless):
            pass

        def test_pays_at_the_end_of_the_module(self, careless):
            pass
"""

CLEAN = """
    import asyncio, os, socket, subprocess, sys, threading
    import pytest

    @pytest.fixture(scope="session")
    def server():
        with socket.create_server(("127.0.0.1", 0)) as server:
            stop = threading.Event()
            thread = threading.Thread(target=stop.wait, name="fixture-thread")
            thread.start()
            yield server
            stop.set()
            thread.join()

    def test_first_to_use_the_fixture(server):
        pass

    def test_second_to_use_the_fixture(server):
        pass

    def test_thread_that_is_about_to_end():
        stop = threading.Event()
        threading.Thread(target=stop.wait).start()
        threading.Timer(0.05, stop.set).start()

    def test_thread_that_ends():
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()

    def test_cycle_is_no_leak():
        class Holder: pass
        holder = Holder()
        holder.itself = holder
        holder.pipe = [os.fdopen(end) for end in os.pipe()]
        for end in holder.pipe:
            end.close()

    def test_tasks_that_end():
        async def main():
            await asyncio.gather(*(asyncio.sleep(0) for _ in range(10)))
        asyncio.run(main())

    def test_child_that_is_waited_for():
        subprocess.run([sys.executable, "-c", ""], check=True)

    @pytest.mark.leaves_threads("the call cannot be stopped", prefix="kv#")
    def test_declared():
        threading.Thread(target=threading.Event().wait, name="kv#0-worker", daemon=True).start()
"""


PLUGINS = ("-p", "sage_deploy_testing.tools.leak_guard", "-p", "no:cacheprovider", "-p", "no:schemathesis")


def run(pytester: pytest.Pytester, source: str) -> pytest.RunResult:
    pytester.makepyfile(test_inner=source)
    return pytester.runpytest_subprocess(*PLUGINS, "-v", "-ra")


@needs_proc
def test_every_kind_of_leak_fails_its_test_and_is_named(pytester):
    """Each leaking test gets one error, which names the leak."""
    result = run(pytester, LEAKING)

    result.assert_outcomes(passed=10, errors=9)
    text = result.stdout.str()
    for test, named in {
        "test_leaves_thread": "thread 'forgotten-worker' (daemon), which is at",
        "test_leaves_socket": "socket:[",
        "test_leaves_file": "left-open.txt",
        "test_leaves_task": "pending asyncio task 'forgotten-task'",
        "test_leaves_child": "sys.stdin.read()",
        "test_leaves_zombie": "(ended, nobody waited for it)",
        "test_leaves_other_thread_than_declared": "thread 'stranger-1'",
        "test_leaves_no_daemon": "thread 'kv#0-worker'",
        "test_pays_at_the_end_of_the_module": "thread 'careless-fixture'",
    }.items():
        start = text.index(f"{test} left behind:")
        assert named in text[start:].split("left behind:", 2)[1], test
    assert "in wait" in text, "a thread is shown with the place where it stands"


def test_clean_tests_pass(pytester):
    """Fixtures of wider scope, threads that are about to end, and declared threads are not leaks."""
    run(pytester, CLEAN).assert_outcomes(passed=8)


@pytest.mark.parametrize("arguments", ["", "('why',)", "('', prefix='kv#')", "(prefix='kv#')", "('why', names='kv#')"])
def test_exception_needs_a_reason_and_a_prefix(pytester, arguments):
    """A `leaves_threads` marker without a reason or without a prefix stops the run."""
    source = f"import pytest\n@pytest.mark.leaves_threads{arguments}\ndef test_it(): pass\n"
    pytester.makepyfile(test_inner=source)
    result = pytester.runpytest_inprocess(*PLUGINS)  # collects and leaves nothing

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_it: leaves_threads takes one reason and the prefix*"])


def test_header_says_what_is_watched(pytester):
    """The report's header says which kinds of leaks are watched on this platform."""
    run(pytester, "def test_it(): pass").stdout.fnmatch_lines(["leak guard: threads, files*, asyncio tasks*, child*"])


def test_taking_stock_is_cheap(monkeypatch):
    """Taking stock before and after a test takes less than 2 ms together, without a runtime."""
    monkeypatch.setattr(leak_guard, "_runtimes", [])  # earlier tests of this process may have started Ray
    rounds = []
    for _ in range(20):
        start = time.perf_counter()
        assert Resources.now() - Resources.now() == Resources()
        rounds.append(time.perf_counter() - start)
    # The fastest of 20 rounds: the slower ones measure what else runs on the machine.
    assert min(rounds) < 0.002, f"{min(rounds) * 1000:.2f} ms, load {os.getloadavg()}, {sys.version}"
