"""`make test-late` lets threads begin late, and they still run."""

from __future__ import annotations

import threading
from random import Random

from late_threads import starting_late


def test_some_threads_begin_late_and_all_run(monkeypatch):
    """Some threads have not begun when `start` returns, and each runs once."""
    monkeypatch.setattr(threading.Thread, "start", starting_late(Random("some")))  # noqa: S311 - no secret
    ran, late = [], 0
    for number in range(40):
        thread = threading.Thread(target=ran.append, args=(number,))
        thread.start()
        late += number not in ran
        thread.join()
    assert ran == list(range(40))
    assert late > 3
