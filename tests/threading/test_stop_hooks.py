"""The stop hooks run once, whatever the workers do while their replica stops."""

from __future__ import annotations

import threading
from queue import SimpleQueue

import pytest

import sage_plugins.host.host
import sage_plugins.host.inbox
from sage_plugins.host.lifecycle import Step

PATIENCE = 20.0


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("svc#0")]


class InTheWay(SimpleQueue):
    """While the stop takes the step of the stop hooks out of the inbox for a moment, all workers end."""

    door = threading.Event()

    def get_nowait(self):
        work = super().get_nowait()
        here = threading.current_thread()
        if isinstance(work, Step) and here not in workers() and not InTheWay.door.is_set():
            InTheWay.door.set()
            for worker in workers():
                worker.join(PATIENCE)
        return work


class Hung:
    entered = threading.Semaphore(0)
    stops: list[str] = []  # noqa: RUF012 - shared with the test

    def hang(self):
        Hung.entered.release()
        InTheWay.door.wait()

    async def ahang(self):
        self.hang()

    def stop(self):
        Hung.stops.append(threading.current_thread().name.partition("-")[0])


@pytest.mark.filterwarnings("ignore::sage_plugins.errors.BlockingCallWarning")
@pytest.mark.parametrize(
    ("strategy", "method", "at_once"),
    [("single", "hang", 1), ("multi", "hang", 2), ("pool", "hang", 2), ("async", "ahang", 1)],
)
def test_stop_hooks_run_although_all_workers_end_while_their_step_is_out_of_the_inbox(
    deploy, monkeypatch, strategy, method, at_once
):
    """The stop hooks run once, in a worker, although all end in the moment in which their step is not in the inbox."""
    monkeypatch.setattr(sage_plugins.host.host, "_STUCK_GRACE_S", 0.05)  # closing waits for methods that hang
    monkeypatch.setattr(sage_plugins.host.inbox, "SimpleQueue", InTheWay)
    InTheWay.door.clear()
    Hung.stops.clear()
    service = deploy(strategy, Hung)
    calls = [service.handle.submit(method) for _ in range(at_once)]
    for _ in calls:
        assert Hung.entered.acquire(timeout=PATIENCE)
    service.env.close(drain_timeout=0)
    for worker in workers():
        worker.join(PATIENCE)
    assert InTheWay.door.is_set()
    assert Hung.stops == ["svc#0"]
