"""What the main thread does for all callers is not cut in two by a signal handler that raises."""

from __future__ import annotations

import signal
import threading

import pytest

from sage_deploy_remote.link.deferred_signals import DeferredSignals


class Alarm(Exception):  # noqa: N818 - what timeout decorators raise
    pass


def ring_and_note(done):
    signal.raise_signal(signal.SIGUSR1)
    done.append(1)


@pytest.fixture
def rings():
    """Have SIGUSR1 raise `Alarm`."""

    def ring(*_):
        raise Alarm

    before = signal.signal(signal.SIGUSR1, ring)
    yield ring
    assert signal.getsignal(signal.SIGUSR1) is ring
    signal.signal(signal.SIGUSR1, before)


def test_handler_runs_when_the_block_is_over(rings):
    """And what it raises is the caller's."""
    done = []
    with pytest.raises(Alarm), DeferredSignals():
        ring_and_note(done)
    assert done == [1]


def test_wait_ends_at_once_with_what_the_handler_raises(rings):
    """A wait minds only KeyboardInterrupt, so that is what ends it."""
    done = []
    with pytest.raises(Alarm), DeferredSignals(waits=True):
        ring_and_note(done)
    assert done == []


def test_wait_ends_without_an_error_if_the_handler_raises_nothing():
    """Then whoever waits looks again."""
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        with DeferredSignals(waits=True):
            signal.raise_signal(signal.SIGUSR1)
            heard.append("not reached")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [1]


def test_own_keyboard_interrupt_of_the_block_goes_on():
    """No signal came, so it is somebody else's."""
    with pytest.raises(KeyboardInterrupt), DeferredSignals(waits=True):
        raise KeyboardInterrupt


@pytest.mark.usefixtures("rings")
def test_other_threads_change_no_handlers():
    """Python would refuse it, and no handler runs there."""
    failed = []

    def enter():
        try:
            with DeferredSignals():
                pass
        except BaseException as error:  # noqa: BLE001 - for the test
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert failed == []
