"""When the threads of `multi` and `pool` start and end."""

from __future__ import annotations

PATIENCE = 20.0


def test_multi_has_exactly_thread_count_threads(deploy, probe, gate):
    """`multi` has exactly `thread_count` threads."""
    service = deploy("multi", probe, thread_count=3)
    assert service.metrics.active_threads == 3
    calls = [service.handle.submit("run", gate, number) for number in range(5)]
    gate.wait_entered(3)
    assert (service.metrics.active_threads, service.waiting) == (3, 2)
    gate.open()
    assert [call.result(PATIENCE) for call in calls] == list(range(5))


def test_pool_grows_under_load_and_shrinks_to_nothing(deploy, probe, gates, until):
    """A pool grows under load and shrinks to no thread when idle, again and again."""
    options = {"pool": {"idle_timeout": 0.01}}
    service = deploy("pool", probe, thread_count=2, thread_pool_size=6, options=options)
    for _ in range(3):
        gate = gates()
        calls = [service.handle.submit("run", gate) for _ in range(6)]
        gate.wait_entered(6)
        assert service.metrics.active_threads == 6
        gate.open()
        for call in calls:
            call.result(PATIENCE)
        until(lambda: service.metrics.active_threads == 0)


def test_pool_keeps_its_threads_while_they_are_needed(deploy, probe, gate):
    """A pool keeps threads that run calls, however short `idle_timeout` is."""
    service = deploy("pool", probe, thread_count=1, thread_pool_size=3, options={"pool": {"idle_timeout": 0.01}})
    calls = [service.handle.submit("run", gate) for _ in range(3)]
    gate.wait_entered(3)
    assert service.metrics.active_threads == 3
    assert not any(call.done() for call in calls)
