"""A service can be stopped at any moment: each accepted call has an outcome, and nothing starts later."""

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
    """Submits calls until the service refuses them."""

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
        except BaseException as error:  # noqa: BLE001 - the test asserts that there is none
            self.failure = error


def stop_somewhere(deploy, strategy, seed):
    """Stop a service while callers use it. Return how many of their calls ended in which way."""
    chance = random.Random(seed)  # noqa: S311 - a seed makes a round repeatable
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
    if drain_timeout:  # if not, methods that have started go on
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
    """At whichever moment the service stops, each accepted call has an outcome and runs at most once."""
    seen = sum((stop_somewhere(deploy, strategy, seed) for seed in range(15)), Counter())
    assert seen["ok"], "no call was answered before the end"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("strategy", ["single", "multi", "pool", "async", "inline"])
def test_a_thousand_times(deploy, strategy):
    """The same holds for a thousand random moments."""
    for seed in range(1000):
        stop_somewhere(deploy, strategy, seed)
