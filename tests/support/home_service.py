"""A service in the deploying process, and what calls of other processes do there."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextlib import suppress
from socket import SHUT_RDWR

from sage_plugins import batch_of

PATIENCE_S = 20.0


class Home:
    def __init__(self):
        self.tried = 0
        self.notes = []
        self.given = 0
        self.ended = threading.Event()

    def echo(self, value):
        return value

    def index(self):
        return self.ctx.replica_index

    def note(self, value):
        self.notes.append(value)

    def noted(self):
        return self.notes

    def left(self):
        return self.ctx.remaining(), self.ctx.request_id

    def fail(self, text):
        self.tried += 1
        raise KeyError(text)

    def attempts(self):
        return self.tried

    def hold(self, gate):
        """Wait until the test opens the gate."""
        GATES[gate].enter()
        return self.ctx.cancelled

    async def hang(self, gate):
        try:
            await GATES[gate].aenter()
        except asyncio.CancelledError:
            GATES[gate].cancelled.set()
            raise

    def numbers(self):
        try:
            for number in itertools.count():
                self.given = number + 1
                yield number
        finally:
            self.ended.set()

    def so_far(self):
        """Return how many numbers were yielded, and whether the generator has ended."""
        return self.given, self.ended.wait(0)

    def one(self, value):
        return value, 1

    @batch_of("one")
    def many(self, values):
        return [(value, len(values)) for value in values]

    def ask(self, name, method, *args):
        """Call a method of another service, as a method in another process does."""
        find = VISITS.get(name, self.ctx.service)
        return find(name).call(method, *args)

    def ask_by_future(self, name, method, *args):
        return VISITS[name](name).submit(method, *args).result()

    async def ask_async(self, name, method, *args):
        return await VISITS[name](name).acall(method, *args)

    def report(self, name, method, *args):
        """Submit a call without waiting for it."""
        VISITS[name](name).submit(method, *args)


class Gate:
    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.cancelled = threading.Event()

    def enter(self):
        self.entered.release()
        assert self.open.wait(PATIENCE_S)

    async def aenter(self):
        self.entered.release()
        await asyncio.sleep(PATIENCE_S)

    def wait(self):
        assert self.entered.acquire(timeout=PATIENCE_S)


GATES = {}
VISITS = {}


def outcomes(env, name="home"):
    return env.get_service_status(name)["metrics"].outcomes


def waiting(env):
    return env.get_service_status("home")["metrics"].queue_size


def cut(env):
    """Close the connections of all callers, as happens when their processes end."""
    (way,) = env.task("home").reach._all_reaches()
    for ends in way._listener._callers.values():
        for end in tuple(ends):
            with suppress(OSError):
                end.shutdown(SHUT_RDWR)
