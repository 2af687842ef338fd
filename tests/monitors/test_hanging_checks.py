"""The monitor `health` in virtual time: checks that hang, or wait for a blocked event loop."""

from __future__ import annotations

import asyncio
import threading

from ward import INTERVAL, TIMEOUT, Alive, Patient

# -- checks that hang --------------------------------------------------------------------------------------------------


def test_check_that_hangs_fails_at_its_timeout_and_is_not_put_twice(ward, gate):
    """
    A check that hangs fails at its timeout and again each interval, on one thread.

    Its late answer does not count.
    """
    service = ward(Alive, replicas=2, failure_threshold=3)
    service.answers["check_health", 0] = gate
    service.advance(INTERVAL)
    gate.wait_entered()
    service.advance(TIMEOUT)
    assert service.states == ["ready", "ready"]
    for _ in range(3):
        service.advance(INTERVAL)
    assert service.states == ["unhealthy", "ready"]
    assert gate.entered == 0, "it was started again"
    assert [thread.name for thread in threading.enumerate()].count("svc#0-health") == 1
    assert [index for _, index, _ in service.answers.asked].count(1) == 5, "the other one was not asked in time"
    del service.answers["check_health", 0]
    gate.open()
    service.settle()
    assert service.states == ["unhealthy", "ready"]
    service.advance(INTERVAL)
    service.advance(INTERVAL)
    assert service.states == ["ready", "ready"]


def test_first_timeout_is_told_as_such(ward, gate):
    """The reason says that the check gave no answer in time."""
    service = ward(Alive, failure_threshold=1)
    service.answers["check_health", 0] = gate
    service.advance(INTERVAL)
    gate.wait_entered()
    service.advance(TIMEOUT)
    reason = "1 health check failed, the last one because check_health() gave no answer in 5 s"
    assert service.told[-1] == ("unhealthy", "svc#0", reason)
    service.advance(INTERVAL - TIMEOUT)
    assert [kind for kind, *_ in service.told].count("unhealthy") == 1


def test_readiness_that_hangs_is_not_ready(ward, gate):
    """A replica whose readiness check hangs is unready."""
    service = ward(failure_threshold=2)
    service.answers["check_ready", 0] = gate
    service.advance(INTERVAL)
    gate.wait_entered()
    service.advance(TIMEOUT)
    for _ in range(3):
        service.advance(INTERVAL)
    assert service.states == ["unready"]
    del service.answers["check_ready", 0]
    gate.open()
    service.settle()
    service.advance(INTERVAL)
    assert service.states == ["ready"]


def test_close_does_not_wait_for_a_check_that_hangs(ward, gate):
    """`close` does not wait for a check that hangs."""
    service = ward(Alive)
    service.answers["check_health", 0] = gate
    service.advance(INTERVAL)
    gate.wait_entered()
    service.env.close()
    assert service.env.task("svc").state == "stopped"
    gate.open()


# -- on an event loop --------------------------------------------------------------------------------------------------


class OnLoop(Patient):
    """Its checks await something of the loop on which it was built."""

    async def setup(self):
        self.loop = asyncio.get_running_loop()
        self.forever = self.loop.create_future()

    async def check_health(self):
        answer = self.answer("check_health")
        if answer == "hang":
            await self.forever
        return answer and asyncio.get_running_loop() is self.loop

    def check_ready(self):
        return self.answer("check_ready")


def test_coroutines_are_asked_on_the_loop_of_the_replica(ward):
    """Coroutine checks run on the replica's loop, others on their own thread so that they do not block it."""
    service = ward(OnLoop, strategy="async", failure_threshold=1)
    service.advance(INTERVAL)
    assert service.states == ["ready"]
    assert {(hook, name) for hook, _, name in service.answers.asked} == {
        ("check_health", "svc#0-loop"),
        ("check_ready", "svc#0-health"),
    }
    service.answers["check_health", 0] = False
    service.advance(INTERVAL)
    assert service.states == ["unhealthy"]


def test_loop_that_is_blocked_is_unhealthy(ward, gate, in_thread):
    """A replica whose loop is blocked is unhealthy."""

    class Blocking(OnLoop):
        async def block(self):
            gate()

    service = ward(Blocking, strategy="async", failure_threshold=1, success_threshold=1)
    in_thread(service.env.service("svc").block)
    gate.wait_entered()
    service.clock.advance(INTERVAL)
    service.clock.advance(TIMEOUT)
    assert service.states == ["unhealthy"]
    gate.open()
    service.settle()
    service.advance(INTERVAL)
    assert service.states == ["ready"]


def test_close_ends_a_coroutine_that_hangs(ward, until):
    """`close` cancels a check coroutine that hangs."""
    service = ward(OnLoop, strategy="async")
    service.answers["check_health", 0] = "hang"
    before = len(service.answers.asked)
    service.clock.advance(INTERVAL)
    until(lambda: len(service.answers.asked) > before)
    service.env.close()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("svc#0")])


def test_close_releases_a_check_that_a_blocked_loop_never_starts(ward, gate, in_thread, until):
    """`close` releases a check that waits for a blocked loop; the check never runs."""

    class Blocking(OnLoop):
        async def block(self):
            gate()

    def asked(service):
        return sum(hook == "check_health" for hook, _, _ in service.answers.asked)

    service = ward(Blocking, strategy="async")
    in_thread(service.env.service("svc").block)
    gate.wait_entered()
    before = asked(service)
    service.clock.advance(INTERVAL)
    until(lambda: _named("svc#0-health"))
    service.env.close(0)
    until(lambda: not _named("svc#0-health"))
    assert asked(service) == before
    gate.open()
    until(lambda: not _named("svc#0"))


def _named(start):
    return [thread for thread in threading.enumerate() if thread.name.startswith(start)]


def test_a_moment_without_threads_is_no_illness(ward, monkeypatch):
    """If no thread can be started, that check is left out: nothing is judged, and the next one runs."""
    service = ward(Alive, failure_threshold=1)
    start, refused = threading.Thread.start, []

    def start_or_refuse(thread):
        if thread.name.endswith("-health") and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_refuse)
    asked = len(service.answers.asked)
    service.advance(2 * INTERVAL + TIMEOUT)
    assert refused
    assert service.states == ["ready"]
    assert len(service.answers.asked) == asked + 1
