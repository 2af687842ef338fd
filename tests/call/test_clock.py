"""The system's clock: its timers and its thread."""

from __future__ import annotations

import threading

import pytest

from sage_plugins.clock import SystemClock

PATIENCE = 20.0
SHORT = 0.03


@pytest.fixture
def clock():
    """A clock of its own; its thread ends with the test."""
    made = SystemClock()
    yield made
    made.rest()


def test_cancelled_timers_do_not_pile_up_until_their_time(clock, until):
    """Cancelled timers free their memory long before their time, and the others still run."""
    far = clock.call_at(clock.monotonic() + 1e6, threading.Event().set)
    ran = threading.Event()
    for number in range(20_000):
        if number == 10_000:
            clock.call_at(clock.monotonic() + SHORT, ran.set)
        clock.call_at(clock.monotonic() + 1e6 + number, ran.clear).cancel()
    assert ran.wait(PATIENCE)
    until(lambda: len(clock._alarms) < 2_000)
    far.cancel()


def test_rest_returns_even_if_it_interrupted_the_setting_of_a_timer(clock, in_thread):
    """`rest` returns in a signal handler, too, which may have interrupted its thread while that sets a timer."""
    clock.call_at(clock.monotonic() + 1e6, threading.Event().set).cancel()

    def interrupted():
        with clock._lock:
            clock.rest()

    in_thread(interrupted).result(PATIENCE)
