"""The rules that a router must keep in every interleaving. Each yields what is wrong, as text."""

from __future__ import annotations

from sage_plugins.routing.method_limits import MethodRouter


def no_more_wait_than_there_is_room_for(world):
    if world.router.waiting > world.setting.queue_size:
        yield f"{world.router.waiting} calls wait and queue_size is {world.setting.queue_size}"


def none_waits_beside_a_free_slot(world):
    limited = isinstance(world.router, MethodRouter)
    for lane in world.router._lanes.serving:
        lanes = [other for other in world.router._lanes.serving if other is lane or not world.setting.keys]
        waiting = [call for other in lanes for call in other.backlog]
        waits = sum(not limited or world.router._has_turn(call, lane) for call in waiting)
        if waits and lane.free:
            yield f"{waits} calls wait and {lane} has a free slot"


def every_turn_is_counted(world):
    if isinstance(world.router, MethodRouter):
        for replica in (replica for replica in world.replicas if replica.alive):
            works = [*replica.inbox, *replica.running, *replica.lane.methods.open.values()]
            works += [call for call in world.accepted if "granted" in call.__dict__ and call.lane is replica.lane]
            for method in world.setting.methods:
                most, turns = method.max_concurrency, sum(work.method is method for work in works)
                counted = replica.lane.methods.running.get(method.index, 0)
                if most is not None and (turns != counted or turns > most):
                    yield f"{turns} of {method.name} run on {replica.lane}, {counted} are counted, {most} may"


def a_batch_waits_for_others_where_one_replica_may_get_them(world):
    if isinstance(world.router, MethodRouter):
        for replica in world.replicas:
            if replica.lane.methods.open and replica.lane not in world.router.lanes:
                yield f"{replica.lane} is closed, and a batch there waits for others to join it"


def none_is_held_back_while_there_is_room(world):
    if world.router.parked and world.router._queue.room:
        yield f"{world.router.parked} calls are parked and there is room"


def what_was_accepted_is_served(world):
    if any(replica.alive and replica.lane in world.router.lanes for replica in world.replicas):
        for call in world.accepted:
            if not call.over():
                yield f"call {call.args[0]} waits for ever, and there is a replica"


def idle_is_said_when_it_is_so(world):
    if world.idle_too_soon:
        yield "the service was said to be idle while an accepted call had no outcome"
    if not world.said_to_be_idle:
        yield "who drains the service was not told that it is idle"
    if world.closed_to_outsiders and not world.seen_idle:
        yield "who closed the service to outsiders was not told that it is idle"


def who_leaves_is_told_once_that_it_may(world):
    if world.may_go != world.leaving:
        yield f"{world.leaving} replicas were to leave, and {world.may_go} times one was told that it may"


def an_accepted_call_ends_once_and_a_refused_one_never(world):
    for calls, ends in ((world.accepted, 1), (world.refused, 0)):
        for call in calls:
            if call.ends != ends:
                yield f"call {call.args[0]} ended {call.ends} times, not {ends}"


def an_accepted_call_is_counted_once(world):
    if world.counted != len(world.accepted):
        yield f"{world.counted} calls were counted and {len(world.accepted)} accepted"


def a_call_starts_once_and_an_idempotent_one_twice_at_most(world):
    for call, starts in world.starts.items():
        if starts > 1 + call.method.idempotent:
            yield f"call {call.args[0]} started {starts} times"


def every_callback_runs_once(world):
    for call in world.accepted:
        if call.callbacks_run != call.callbacks_asked:
            yield f"{call.callbacks_run} of {call.callbacks_asked} callbacks of call {call.args[0]} ran"


def nothing_waits_at_the_end(world):
    if world.router.waiting or world.router.parked:
        yield f"{world.router.waiting} calls wait and {world.router.parked} are parked at the end"


def all_room_is_free_at_the_end(world):
    room = world.router._queue.free
    if room != world.setting.queue_size:
        yield f"{room} of {world.setting.queue_size} places in the queue are free at the end"


def nothing_is_remembered_at_the_end(world):
    if world.router._queue.unbound:
        yield f"{len(world.router._queue.unbound)} calls are still said to wait for any replica"


def all_slots_are_free_at_the_end(world):
    for lane in (replica.lane for replica in world.replicas if replica.alive):
        if len(lane.free) + lane.withdrawn != lane.slots:
            yield f"{lane} has {len(lane.free)} free slots and {lane.withdrawn} withdrawn at the end"
        if lane.abandoned:
            yield f"{lane} counts {lane.abandoned} abandoned calls at the end"


RULES_BETWEEN = (
    no_more_wait_than_there_is_room_for,
    none_waits_beside_a_free_slot,
    none_is_held_back_while_there_is_room,
    every_turn_is_counted,
    a_batch_waits_for_others_where_one_replica_may_get_them,
)
RULES_WHEN_DRAINED = (what_was_accepted_is_served,)
RULES_AT_THE_END = (
    idle_is_said_when_it_is_so,
    who_leaves_is_told_once_that_it_may,
    an_accepted_call_ends_once_and_a_refused_one_never,
    an_accepted_call_is_counted_once,
    a_call_starts_once_and_an_idempotent_one_twice_at_most,
    every_callback_runs_once,
    nothing_waits_at_the_end,
    all_room_is_free_at_the_end,
    nothing_is_remembered_at_the_end,
    all_slots_are_free_at_the_end,
)


def broken_rules(world):
    """Run *world* to its end and yield each rule that it broke, with what was wrong."""
    for advance, rules in (
        (world.settle, RULES_BETWEEN),
        (world.finish, RULES_WHEN_DRAINED),
        (world.router.end, RULES_AT_THE_END),
    ):
        advance()
        for rule in rules:
            for wrong in rule(world):
                yield f"{rule.__name__.replace('_', ' ')}: {wrong}"
