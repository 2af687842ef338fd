"""The settings in which operations of a router are interleaved: services and their first calls."""

from __future__ import annotations

from itertools import cycle
from math import inf
from typing import NamedTuple

from sage_plugins.values import BatchPlan, MethodKind, MethodPlan

ONCE = MethodPlan(0, "once", MethodKind.SYNC, idempotent=False, timeout=inf)
TWICE = MethodPlan(1, "twice", MethodKind.SYNC, idempotent=True, timeout=inf)

#: How many seconds a batch waits for more calls.
WAIT = 1 / 64
ONE_AT_A_TIME = (ONCE._replace(max_concurrency=1), TWICE._replace(max_concurrency=1))
ONE_LIMITED = (ONCE._replace(max_concurrency=1), TWICE)
BATCHED = (
    ONCE._replace(batch=BatchPlan("once_many", MethodKind.SYNC, 3, WAIT)),
    TWICE._replace(batch=BatchPlan("twice_many", MethodKind.SYNC, 2, WAIT), max_concurrency=1),
)
ONE_BATCHED = (ONCE, BATCHED[1])
ALL_TWICE = (TWICE._replace(index=0, name="also twice"), TWICE)


class InTurn:
    binding = False

    def picker(self, candidates):
        turn = cycle(candidates)
        return lambda _key, _method: next(turn)


class ByKey:
    binding = True

    def picker(self, candidates):
        return lambda key, _method: candidates[key % len(candidates)]


class ToFirst:
    binding = True

    def picker(self, candidates):
        return lambda _key, _method: candidates[0]


class Setting(NamedTuple):
    """A service and its first calls: one for each slot, and *waiting* more."""

    queue_size: int
    reject: bool = False
    balancer: type | None = None
    replicas: int = 1
    slots: int = 1
    in_callers_thread: bool = False
    waiting: int = 2
    keys: bool = True  # whether calls have keys
    started: bool = True  # whether the replicas have started the calls sent to them
    methods: tuple[MethodPlan, ...] = (ONCE, TWICE)
    ahead: int = 0  # how many calls may be sent ahead with another


SETTINGS = {
    "one slot": Setting(5),
    "two slots": Setting(5, slots=2),
    "with a standby": Setting(5, replicas=2),
    "nothing waits": Setting(1, slots=2, waiting=0),
    "a slot is free": Setting(1, slots=2, waiting=-1),
    "narrow queue": Setting(1),
    "sent": Setting(1, started=False),
    "in turn": Setting(5, balancer=InTurn, replicas=2),
    "in turn, refusing": Setting(1, reject=True, balancer=InTurn, replicas=2),
    "in turn, no queue": Setting(0, balancer=InTurn, replicas=2),
    "by key": Setting(3, balancer=ByKey, replicas=2),
    "by key, nothing waits": Setting(3, balancer=ByKey, replicas=2, waiting=0),
    "for the first": Setting(3, balancer=ToFirst, replicas=2, waiting=0),
    "bound, without keys": Setting(3, balancer=ToFirst, replicas=2, keys=False),
    "turns, bound, without keys": Setting(3, balancer=ToFirst, replicas=2, keys=False, methods=ONE_LIMITED),
    "turns": Setting(5, slots=2, methods=ONE_LIMITED),
    "turns, narrow queue": Setting(1, slots=3, waiting=1, methods=ONE_AT_A_TIME),
    "turns, two replicas": Setting(5, balancer=InTurn, replicas=2, methods=ONE_AT_A_TIME),
    "turns, inline": Setting(2, in_callers_thread=True, methods=ONE_AT_A_TIME),
    "a batch is open": Setting(5, slots=3, waiting=-1, methods=BATCHED),
    "batches wait": Setting(5, waiting=5, methods=BATCHED),
    "batches, narrow queue": Setting(1, slots=2, waiting=2, methods=ONE_BATCHED),
    "batches, two replicas": Setting(5, balancer=InTurn, replicas=2, waiting=3, methods=ONE_BATCHED),
    "batches, by key": Setting(3, balancer=ByKey, replicas=2, waiting=2, methods=BATCHED),
    "inline": Setting(2, in_callers_thread=True),
    "ahead": Setting(5, waiting=4, methods=ALL_TWICE, ahead=3),
    "ahead, sent": Setting(5, waiting=4, started=False, methods=ALL_TWICE, ahead=3),
    "ahead, mixed": Setting(5, slots=2, waiting=5, ahead=2),
    "ahead, narrow queue": Setting(2, waiting=5, methods=ALL_TWICE, ahead=2),
    "ahead, two replicas": Setting(5, balancer=InTurn, replicas=2, waiting=5, methods=ALL_TWICE, ahead=2),
    "ahead, bound, without keys": Setting(
        5, balancer=ToFirst, replicas=2, keys=False, waiting=5, methods=ALL_TWICE, ahead=2
    ),
    "ahead, turns": Setting(5, slots=2, waiting=5, methods=ONE_LIMITED, ahead=2),
    "inline, no queue": Setting(0, balancer=InTurn, replicas=2, in_callers_thread=True),
}
