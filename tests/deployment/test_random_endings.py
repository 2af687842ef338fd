"""A service may be stopped at any moment: each call that it had accepted has its outcome, and nothing starts later."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest

from sage_plugins import errors

CALLERS = 3
PATIENCE = 20.0


class Counting:
    def __init__(self, ran):
        self.ran = ran

    def run(self, number):
        self.ran.append(number)
        return number


class Caller(threading.Thread):
    """Submits calls until the service takes no more."""

    def __init__(self, service, numbers, made):
        super().__init__(daemon=True)
        self.calls = {}
        self.failure = None
        self._service = service
        self._numbers = numbers
        self._made = made

    def run(self):
        try:
            for number in self._numbers:
                self.calls[number] = self._service.submit("run", number)
                self._made.release()
        except errors.ServiceStoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.failure = error


def stop_somewhere(deploy, strategy, seed):
    """Stop a service while callers are at it; gives how their calls ended."""
    chance = random.Random(seed)  # noqa: S311 - so that a round can be repeated
    witness = []
    service = deploy(strategy, Counting, witness, queue_size=chance.choice((1, 5, 1000)), timeout=1000.0)
    made = threading.Semaphore(0)
    callers = [Caller(service.handle, range(first, 100_000, CALLERS), made) for first in range(CALLERS)]
    for caller in callers:
        caller.start()
    for _ in range(chance.randrange(60)):
        made.acquire()
    drain_timeout = chance.choice((0.0, PATIENCE))
    service.env.close(drain_timeout=drain_timeout)
    at_the_end = len(witness)
    for caller in callers:
        caller.join(PATIENCE)
        assert not caller.is_alive(), f"seed {seed}: a caller is not let go"
        assert caller.failure is None, f"seed {seed}: {caller.failure!r}"
    ran = Counter(witness)
    if drain_timeout:  # else methods that had started go on
        assert len(witness) == at_the_end, f"seed {seed}: a call started after the end"
    calls = {number: call for caller in callers for number, call in caller.calls.items()}
    seen = Counter()
    for number, call in calls.items():
        assert call.done(), f"seed {seed}: call {number} has no outcome"
        error = call.exception()
        assert error is None or isinstance(error, errors.ServiceStoppedError), f"seed {seed}: {error!r}"
        assert error is not None or ran[number] == 1, (
            f"seed {seed}: call {number} is answered and ran {ran[number]} times"
        )
        seen["ok" if error is None else "stopped"] += 1
    assert max(ran.values(), default=0) <= 1, f"seed {seed}: a call ran twice"
    assert not ran.keys() - calls.keys(), f"seed {seed}: a call ran that was not accepted"
    return seen


@pytest.mark.parametrize("strategy", ["single", "multi", "pool", "async", "inline"])
def test_stopped_at_a_random_moment_each_accepted_call_has_its_outcome(deploy, strategy):
    seen = sum((stop_somewhere(deploy, strategy, seed) for seed in range(40)), Counter())
    assert seen["ok"], "no call was answered before the end"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("strategy", ["single", "multi", "pool", "async", "inline"])
def test_a_thousand_times(deploy, strategy):
    for seed in range(1000):
        stop_somewhere(deploy, strategy, seed)
