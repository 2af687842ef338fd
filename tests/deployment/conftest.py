"""Shared fixtures for tests of deployments: a class that records its life, and a service with replicas to kill."""

from __future__ import annotations

import threading

import pytest

from mortal_target import Stage
from service_threads import EARLIER


@pytest.fixture
def _earlier(monkeypatch):
    EARLIER.clear()
    EARLIER.update(threading.enumerate())
    # Stop hooks get this long once `drain_timeout` is used up. Short, because some tests hang in a method.
    monkeypatch.setattr("sage_plugins.deployment.replicas.stopper._LAST_GRACE_S", 0.1, raising=False)


@pytest.fixture
def diary():
    """What happened, in order, as (step, thread)."""
    return []


@pytest.fixture
def living(diary):  # noqa: C901 - a class with every hook has many methods
    """A class with every hook, which records each call."""

    class Living:
        def __init__(self):
            self.note("init")

        def note(self, step):
            diary.append((step, threading.current_thread()))

        def setup(self):
            self.note("setup")

        def start_running(self):
            self.note("start_running")

        def start(self):
            self.note("start")

        def warmup(self):
            self.note("warmup")

        def method(self):
            self.note("method")

        def stop(self):
            self.note("stop")

        def cleanup(self):
            self.note("cleanup")

        def close(self):
            self.note("close")

    return Living


@pytest.fixture
def stage(environments, until, in_thread):
    def make(*capabilities, **fields):
        return Stage(environments, until, in_thread, capabilities, fields)

    return make
