"""A signal handler that raises does not interrupt the work that the main thread does for all callers."""

from __future__ import annotations

import signal
import threading

import pytest

from sage_deploy_remote.link.deferred_signals import DeferredSignals


class Alarm(Exception):  # noqa: N818 - the kind of exception that timeout decorators raise
    pass


def ring_and_note(done):
    signal.raise_signal(signal.SIGUSR1)
    done.append(1)


@pytest.fixture
def rings():
    """Make SIGUSR1 raise `Alarm`."""

    def ring(*_):
        raise Alarm

    before = signal.signal(signal.SIGUSR1, ring)
    yield ring
    assert signal.getsignal(signal.SIGUSR1) is ring
    signal.signal(signal.SIGUSR1, before)


def test_handler_runs_when_the_block_is_over(rings):
    """The handler runs after the block; its exception reaches the caller."""
    done = []
    with pytest.raises(Alarm), DeferredSignals():
        ring_and_note(done)
    assert done == [1]


def test_wait_ends_at_once_with_what_the_handler_raises(rings):
    """A signal ends a wait at once, inside by KeyboardInterrupt; the caller gets what the handler raises."""
    done = []
    with pytest.raises(Alarm), DeferredSignals(waits=True):
        ring_and_note(done)
    assert done == []


def test_wait_ends_without_an_error_if_the_handler_raises_nothing():
    """If the handler raises nothing, the wait ends without an error, so the waiting thread checks again."""
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
    """A KeyboardInterrupt that no signal caused goes on to the caller."""
    with pytest.raises(KeyboardInterrupt), DeferredSignals(waits=True):
        raise KeyboardInterrupt


@pytest.mark.usefixtures("rings")
def test_other_threads_change_no_handlers():
    """Other threads set no signal handlers: Python refuses that, and no handler runs there."""
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
