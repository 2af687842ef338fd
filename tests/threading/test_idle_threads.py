"""The threads of idle services end, and the next call starts new ones."""

from __future__ import annotations

import threading

import pytest

from sage_plugins.host.inbox import Inbox

PATIENCE = 20.0
WITH_THREADS = ("single", "multi", "pool")


class Service:
    """Returns the threads that run it."""

    stopped_by = None

    def thread(self):
        return threading.current_thread()

    def run(self, function):
        return function()

    def stop(self):
        type(self).stopped_by = threading.current_thread()


@pytest.fixture
def asleep(deploy, until):
    """Deploys a service whose idle threads end soon, and waits until none is left."""

    def make(strategy, cls=Service, **config):
        service = deploy(strategy, cls, options={strategy: {"idle_timeout": 0.01}}, **config)
        until(lambda: service.metrics.active_threads == 0)
        return service

    return make


@pytest.mark.parametrize("strategy", WITH_THREADS)
def test_idle_service_has_no_thread_and_each_call_after_a_pause_starts_one(asleep, until, strategy):
    """An idle service has no thread, and each call after a pause starts one."""
    service = asleep(strategy)
    seen = set()
    for _ in range(3):
        seen.add(service.handle.thread())
        until(lambda: service.metrics.active_threads == 0)
    assert len(seen) == 3


def test_work_that_no_thread_waits_for_is_told_at_once():
    """The inbox reports work at once if no thread waits for it, after queueing it, and not if one waits."""
    inbox, idle, told = Inbox(), [], []
    inbox.when_unattended(idle, lambda: told.append(inbox.size()))
    inbox.put(None)
    idle.append(None)
    inbox.put(None)
    assert told == [1]


@pytest.mark.parametrize("strategy", WITH_THREADS)
def test_threads_that_come_and_go_at_every_moment_lose_no_call(deploy, strategy):
    """If threads start and end all the time, no call is lost."""
    service = deploy(strategy, Service, options={strategy: {"idle_timeout": 0.0005}})
    for burst in range(200):
        calls = [service.handle.submit("run", int) for _ in range(burst % 5 + 1)]
        assert [call.result(PATIENCE) for call in calls] == [0] * len(calls)


@pytest.mark.parametrize("strategy", WITH_THREADS)
def test_all_slots_of_a_service_that_was_idle_run_at_once(asleep, gate, strategy):
    """After all threads of a service ended, all its slots still run calls at once."""
    service = asleep(strategy)
    calls = [service.handle.submit("run", gate) for _ in range(service.slots)]
    gate.wait_entered(service.slots)
    gate.open()
    for call in calls:
        call.result(PATIENCE)


@pytest.mark.parametrize("strategy", ["multi", "pool"])
def test_calls_that_wait_for_each_other_meet_whenever_threads_leave(deploy, strategy):
    """Calls that wait for each other all run, even if threads leave just when work comes."""
    service = deploy(strategy, Service, options={strategy: {"idle_timeout": 0.0005}})
    meeting = threading.Barrier(service.slots, timeout=PATIENCE)
    for number in range(400):
        if number % 3 == 0:
            service.handle.thread()  # one thread has worked later than the other
        calls = [service.handle.submit("run", meeting.wait) for _ in range(service.slots)]
        assert sorted(call.result(PATIENCE) for call in calls) == list(range(service.slots))


def test_thread_that_works_is_not_joined_by_another_for_want_of_work(asleep, gate):
    """One busy thread does not keep idle threads, and its end starts none."""
    service = asleep("pool", thread_pool_size=2, thread_count=1)
    call = service.handle.submit("run", gate)
    gate.wait_entered()
    assert service.handle.thread() is not None
    gate.open()
    call.result(PATIENCE)


@pytest.mark.parametrize("strategy", WITH_THREADS)
def test_stop_hooks_of_an_idle_service_run_on_a_thread_of_its_own(asleep, strategy):
    """The stop hooks of an idle service run on a worker thread."""

    class Mine(Service):
        pass

    service = asleep(strategy, Mine)
    service.env.close()
    assert Mine.stopped_by.name.startswith("svc#0-worker")


@pytest.mark.parametrize("strategy", ["single", "multi"])
def test_calls_pay_nothing_for_an_option_that_is_off(deploy, strategy):
    """Without `idle_timeout` a call goes straight into the workers' queue, a built-in function."""
    service = deploy(strategy, Service)
    (lane,) = service.env.task("svc")._router.lanes
    assert type(lane.send) is type(len)


def test_call_runs_in_its_callers_thread_if_no_thread_can_be_started(asleep, monkeypatch):
    """If no thread can be started, the call runs in its caller's thread. The next call starts a thread again."""
    service = asleep("pool")

    def refuse(_thread):
        msg = "can't start new thread"
        raise RuntimeError(msg)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert service.handle.thread() is threading.current_thread()
    assert service.handle.thread() is not threading.current_thread()


@pytest.mark.parametrize("seconds", [0, -1, "soon", True])
def test_idle_timeout_that_is_no_duration_is_refused(deploy, seconds):
    """An `idle_timeout` that is no duration is refused."""
    with pytest.raises(Exception, match=r"options\.single\.idle_timeout"):
        deploy("single", Service, options={"single": {"idle_timeout": seconds}})
