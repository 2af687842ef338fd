"""
A stream's channel loses no item, keeps their order and wakes each side, whatever happens between any two steps.

Both sides are generators that yield where a thread or task would sleep. The first side is traced. Before its n-th step
the second side runs as far as it can. Then both take turns until neither can go on. This is repeated for every n.
"""

from __future__ import annotations

import sys
from functools import partial
from itertools import count

import pytest

import sage_plugins.call.stream
from sage_plugins.call.stream import AHEAD, NOTHING, Channel

ITEMS = AHEAD + 6


class Side:
    """One side of a channel. It runs until it would sleep, and goes on once it is woken."""

    def __init__(self, steps):
        self._steps = steps
        self._latch = ["open"]  # the side sleeps while this list is empty
        self.ended = self.runs = False

    def run(self):
        """Run until it sleeps or ends."""
        self.runs = True
        while self._latch and not self.ended:
            try:
                self._latch = next(self._steps)
            except StopIteration:
                self.ended = True
        self.runs = False


class World:
    """A producer of numbered items and their consumer, with the same steps as `Channel.put` and `__next__`."""

    def __init__(self, channel, *, wanted=ITEMS):
        self.channel = channel
        self.taken = []
        self.refused = False
        self.wanted = wanted
        self.producer = Side(self._produce())
        self.consumer = Side(self._consume())

    def _produce(self):
        channel = self.channel
        for item in range(ITEMS):
            channel.deliver(item)
            while channel._full():
                latch = []
                channel._producer.append(partial(latch.append, "open"))
                if channel._full():
                    yield latch
            if channel.closed:
                self.refused = True
                return

    def _consume(self):
        channel = self.channel
        while len(self.taken) < self.wanted:
            item = channel.take()
            if item is NOTHING:
                latch = []
                channel.announce(partial(latch.append, "open"))
                item = channel.take()
                if item is NOTHING:
                    yield latch
                    continue
            self.taken.append(item)
        if self.wanted < ITEMS:
            channel.close()

    def settle(self):
        """Let both sides take turns until neither can go on."""
        for _ in range(2 * ITEMS):
            self.producer.run()
            self.consumer.run()


#: The code whose steps are tried, without the functions that only drive the two sides.
FILES = (sage_plugins.call.stream.__file__, __file__)
DRIVERS = ("both", "run", "<lambda>")


def run_until_step(first, step, then):
    """Run *first*, and run *then* before its given step in the channel. Return whether there was such a step."""
    left, reached = step, False

    def trace(frame, event, _):
        nonlocal left, reached
        if frame.f_code.co_filename not in FILES or frame.f_code.co_name in DRIVERS:
            return None
        frame.f_trace = trace  # set it first: without it, Python 3.13 reports no steps
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and not reached:
            left -= 1
            if not left:
                reached = True
                sys.settrace(None)
                then()
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 reads this only when tracing begins
    sys.settrace(trace)
    try:
        first()
    finally:
        sys.settrace(before)
    return reached


def wrong_after(channel_type, first, step, *, wanted=ITEMS):
    """Interrupt *first* before its given step. Return whether there was such a step, and what is wrong at the end."""
    world = World(channel_type(), wanted=wanted)
    sides = [world.producer, world.consumer]
    if first == "consumer":
        sides.reverse()

    def both():
        for _ in range(4):
            for side in sides:
                side.run()

    def other():
        next(side for side in sides if not side.runs).run()

    reached = run_until_step(both, step, other)
    world.settle()
    wrong = []
    if world.taken != list(range(wanted)):
        wrong.append(f"taken were {world.taken}")
    if not (world.producer.ended and world.consumer.ended):
        wrong.append(f"asleep: producer {not world.producer.ended}, consumer {not world.consumer.ended}")
    if wanted < ITEMS and not world.refused:
        wrong.append("the producer was not told that nobody wants more")
    return reached, wrong


def failures(channel_type, first, **settings):
    for step in count(1):
        reached, wrong = wrong_after(channel_type, first, step, **settings)
        if wrong:
            yield step, wrong
        if not reached:
            assert step > 100, "the channel was hardly looked at"
            return


@pytest.mark.parametrize("wanted", [ITEMS, 3])
@pytest.mark.parametrize("first", ["producer", "consumer"])
def test_no_item_and_no_wake_up_is_lost_at_any_step(first, wanted):
    """Whichever step of one side the other interrupts, no item and no wake-up is lost."""
    assert list(failures(Channel, first, wanted=wanted)) == []


class LooksFirst(Channel):
    """Wakes the consumer before it stores the item."""

    def deliver(self, item):
        self.wake_consumer()
        self._items.append(item)


class WakesInTwoSteps(Channel):
    """Reads and clears the consumer's announcements in two steps."""

    def wake_consumer(self):
        announced = list(self._consumer)
        self._consumer.clear()
        for wake in announced:
            wake()


@pytest.mark.parametrize("channel", [LooksFirst, WakesInTwoSteps])
def test_a_channel_that_loses_a_wake_up_between_two_steps_is_found_out(channel):
    """The search finds a channel that loses a wake-up between two steps."""
    assert any("asleep" in str(wrong) for _, wrong in failures(channel, "producer"))
