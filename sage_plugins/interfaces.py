"""
The objects behind the plugins: what a target, strategy, balancer or monitor must be, and what the core gives it.

All are protocols, so a plugin need not inherit from anything. Callables that are used for every call are plain
attributes: fetch them once, call them often.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
    from threading import Thread

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.reach.kept import Kept
    from sage_plugins.reach.listing import Found, ListedReplica, Listing, Neighbour
    from sage_plugins.values import (
        Event,
        Limits,
        Placed,
        Refused,
        ReplicaInfo,
        ReplicaSpec,
        ReplicaState,
        RunnerStats,
    )

__all__ = [
    "Balancer",
    "Candidate",
    "ControlOp",
    "Directory",
    "Entrance",
    "Keeper",
    "Monitor",
    "Picker",
    "Recorder",
    "Replica",
    "ReplicaEvents",
    "Runner",
    "Seat",
    "Strategy",
    "Target",
    "WatchedReplica",
    "WatchedService",
    "Work",
]

#: One piece of work for a replica: a call, or a step of the replica's life such as building the instance. Opaque: a
#: strategy hands it to a worker's `execute` and looks no further.
Work: TypeAlias = Any

#: What a balancer composes: gives the replica that takes the next call, from the call's key.
Picker: TypeAlias = "Callable[[Hashable | None], Candidate]"


# -- how a replica runs calls
# ----------------------------------------------------------------------------------------------


class Seat(Protocol):
    """What the core gives a strategy: where its workers fetch work and how they do it."""

    name: str
    """The replica's id, such as `"kv#0"`."""

    limits: Limits
    """How many threads or coroutines the configuration allows."""

    get: Callable[[], Work | None]
    """The next piece of work; blocks until there is one. None ends this worker."""

    get_within: Callable[[float], Work | None]
    """`get` for at most so many seconds; raises `queue.Empty` if there was no work."""

    waiting: Callable[[], int]
    """Pieces of work in the seat that no worker has fetched yet; may lag."""

    worker: Callable[[], Callable[[Work | None], bool]]
    """
    Gives a worker its `execute`, which must never be used by two threads at once.

    `execute(work)` does one piece of work, from claiming it to releasing its caller, and the waiting calls that get its
    slot afterwards. It never raises, and is False for None: then the worker ends. So a worker is
    `get, execute = seat.get, seat.worker()` and `while execute(get()): pass`.
    """

    end_worker: Callable[[], None]
    """Make one `get` return None; used by `Runner.stop`, once for each worker."""

    on_ready: Callable[[Callable[[], None]], None]
    """
    For strategies with an event loop: have a function called, from any thread, when there is work and the loop has
    found none before. Called once, before `Strategy.start` returns.
    """

    get_nowait: Callable[[], Work | None]
    """For event loops: the next piece of work, or None: then the function given to `on_ready` tells of the next."""

    starter: Callable[[Callable[[Work], None]], Callable[[Work], bool]]
    """
    For event loops: gives, on the running loop, its `start(work)`, which starts a piece of work as a task and is False
    for work that must not run on a loop: a method that is no coroutine. That is done by a thread, with `worker()`. The
    argument takes such work when it follows on other.
    """

    steps_over: Callable[[], Awaitable[None]]
    """For event loops: wait, on the loop, for the steps of the replica's life that were started; before it ends."""

    spawn: Callable[[Callable[[], None], str], Thread]
    """Start a daemon thread, named after the replica and the string given."""


class Strategy(Protocol):
    """How a replica runs its calls: one object for each replica."""

    def start(self, seat: Seat) -> Runner:
        """
        Start the workers; returns at once.

        The first piece of work that they fetch builds the service's instance, so constructor and hooks run where calls
        run.
        """


class Runner(Protocol):
    """The running workers of one replica."""

    @property
    def slots(self) -> int:
        """Calls at once, at most. The core sends no more."""

    @property
    def run_here(self) -> Callable[[Call], Any] | None:
        """For a strategy without workers: runs a call in the calling thread. None for all others."""

    def stats(self) -> RunnerStats:
        """What the workers do at the moment."""

    def stop(self, grace: float) -> int:
        """
        End the workers, waiting for those at work at most *grace* seconds.

        Idempotent. Returns how many are still at work: they end when their method does.
        """


# -- where replicas run
# ------------------------------------------------------------------------------------------------------


class ControlOp(StrEnum):
    """What can be asked of a replica beside its calls."""

    CHECK = "check"
    """Call `check_health()` if the class has it; raises what that raises, or RuntimeError if it returns False."""

    READY = "ready"
    """The same with `check_ready()`."""

    STATS = "stats"
    """
    A mapping: `runner` (RunnerStats), `recorders` ({monitor id: snapshot}), `pid` (of its process) and, if it does not
    answer and these are those that it gave last, `age` (seconds since then). `idle` is how many seconds ago a call
    ended last, None if none has.
    """

    GET = "get"
    """The attribute of the instance whose name is the argument."""

    SET = "set"
    """Set an attribute of the instance: the argument is its name and its value."""

    TERMINATE = "terminate"
    """Call `terminate()` if the instance has it."""


class Replica(Protocol):
    """
    The caller's side of one running copy of a service.

    One in another process may also have `counts(call, outcome, spent_s) -> bool`: whether that process counts a call
    which its caller gave up while it ran, rather than the calling side. It is called in place of telling a monitor.

    One that may have to wait before its instance is built, for a place or a process, may also have
    `progress(*, timeout: float) -> str`, which answers within *timeout* seconds. It says what the replica waits for,
    and what to do, in words that complete "the replica is not ready: ...", and "" once the instance is being built. It
    is asked for the error of a replica that was not ready in time.

    One that further processes may call, see `Target`, has two more: `address`, by which `Entrance.attach` reaches it
    there, and `vacate() -> Callable[[float], None]`, which has it refuse their calls from now on, and gives what waits
    at most so many seconds until those that it has are answered.

    One that can outlive this process has `leave() -> None`: it goes on, and this side of it is not used any more. Calls
    that it has from here end as after `stop`.
    """

    id: str
    """Such as `"kv#0"`."""

    index: int
    """Position among the service's replicas, from 0."""

    node: str | None
    """Name of the node, None for this process."""

    slots: int
    """Calls at once, at most."""

    send: Callable[[Call], None]
    """
    Hand over a call for which the router holds a slot. Never blocks.

    A call that is sent to a replica which has died meanwhile is reported through `ReplicaEvents.lost` as not started.
    """

    run_here: Callable[[Call], None] | None
    """For replicas in this process whose strategy has no workers: runs a call in the calling thread."""

    cancel: Callable[[Call], None]
    """
    Stop the coroutine of a started call whose caller gave it up; never blocks. A method that is no coroutine goes on.
    """

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """
        Ask something beside the calls, on a lane of its own: it is answered also when all slots are taken.

        Raises at once for a replica that is known to have died.
        """

    def stop(self, grace: float) -> int:
        """
        Run the stop hooks, then end the workers; waits at most *grace* seconds.

        Idempotent, also for a replica that has died or failed to start: then it lets go of what it held. Returns how
        many calls still run.
        """


class ReplicaEvents(Protocol):
    """What a target tells the core about one replica, from any thread."""

    freed: Callable[[Work], None]
    """The work that was sent has ended, and its slot is free again: the next work is sent."""

    follow: Callable[[Work], Work | None]
    """
    Like `freed`, for a replica that can go on at once: gives the next work for the slot, or None if it is free now.
    """

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """The replica's state changed; *cause* says why for `failed` and `unhealthy`."""

    def lost(self, not_started: Sequence[Work], maybe: Sequence[Work], cause: BaseException) -> None:
        """
        The replica died with this work: what surely had not started, and what may have.

        Said once of each death, as soon as it is known, also if it runs nothing or was not ready yet; not of a replica
        that was told to stop. It is replaced then, through `Target.place` and `Target.start`, which are called from
        another thread. Work is not "not started" once the replica has begun to unpack its arguments, which runs code
        too: such work goes to another replica, each time, and would take them all with it.
        """

    def refused(self, work: Work, *, stuck: bool = False) -> None:
        """
        The replica had no slot for the work, because other processes use it as well; it has not started.

        The slot stays taken until `freed(None)`. *stuck* says that all are held by calls from within which it was made.
        """

    def ahead(self, call: Call, most: int) -> Sequence[Call]:
        """
        Waiting calls to send along with *call*, which is about to be sent, to run after it in its slot.

        All are idempotent.
        At most *most*, and no more than are this slot's share; often none. The slot is free when all have ended, and
        that is told of *call*. If the replica dies, those that were not answered are `maybe`, each on its own.
        """

    def returned(self, calls: Sequence[Call]) -> None:
        """Some that `ahead` gave have not started, since those before them take long: they wait again."""

    def service(self, name: str) -> Any:
        """A handle to another service, for the instance's `ctx`."""


class Target(Protocol):
    """
    Where replicas run: one object for each service.

    One whose services can be called from further processes declares the capability `reachable`, and has a method
    `directory(environment: str) -> Directory`, which starts nothing. What it gives for the same environment, by ID, is
    equal.

    One whose replicas can outlive this process declares `detaches` as well, and has two more:

    * `keeper(environment: str, name: str) -> Keeper | None`, for an environment by ID and name, starts nothing. None if
      replicas end with this process, as this target is configured. Otherwise they have `leave`, see `Replica`.
    * `adopt(spec: ReplicaSpec, found: KeptReplica, events: ReplicaEvents, clock: Clock) -> Replica`, as `start`, for a
      replica that was there before, which may still be starting.
    """

    def place(self, specs: Sequence[ReplicaSpec]) -> Sequence[Placed | Refused]:
        """Decide for each replica where it will run. Starts nothing."""

    def start(self, spec: ReplicaSpec, at: Placed, events: ReplicaEvents, clock: Clock) -> Replica:
        """Start a replica; returns at once, in state `starting`, and reports `ready` or `failed` through *events*."""

    def close(self) -> None:
        """Let go of whatever the target holds, after its replicas were stopped. Idempotent."""


# -- how other processes find a service
# ------------------------------------------------------------------------------------------


class Directory(Protocol):
    """
    Where the process that deploys an environment says what runs, and others look it up.

    It is pickled, and what is unpickled in another process looks in the same place; equal ones do. All methods are safe
    from any thread.
    """

    @property
    def environment(self) -> str:
        """ID of the environment."""

    def announce(self, known: Mapping[str, Neighbour]) -> None:
        """
        Say which services the environment knows; before one of them is started. Where that takes it, this connects.

        Raises:
            ClusterUnavailableError: It cannot be said.
        """

    def publish(self, listing: Listing) -> None:
        """
        Say what has become of a service; never blocks. One older than what is known is left out.

        A later incarnation is newer, and of one incarnation a later version.
        """

    def wait_seen(self, service: str, version: int, timeout: float) -> None:
        """
        Wait until whoever asks is told what was published, and those who follow the service have taken in *version*.

        Args:
            service: Its name.
            version: Of the listing, or of an earlier one; 0 if nobody who follows it is to be waited for.
            timeout: Seconds, at most.
        """

    def open(self, service: str) -> Entrance:
        """This process's way to a service that another one has deployed; starts nothing."""

    def __hash__(self) -> int:
        """As equality."""


class Keeper(Protocol):
    """
    What is kept of the services of one environment whose replicas outlive the processes that deploy them.

    Environments of the same name, in whatever process and at whatever time, have the same; one of them at a time holds
    it, until it closes the target that gave this or its process ends.
    """

    @property
    def environment(self) -> str:
        """ID by which other processes look the services up, whoever deployed them."""

    def hold(self) -> None:
        """
        See that no other process starts or stops replicas of the environment.

        Raises:
            DeployError: Another one does.
            ClusterUnavailableError: That is not known.
        """

    def deployed(self) -> Mapping[str, ReplicaSpec]:
        """
        The services that were deployed and not stopped, each with the spec of one replica; holds them.

        Raises:
            DeployError, ClusterUnavailableError: As `hold`.
        """

    def kept(self, service: str) -> Kept | None:
        """
        What there is of one service, to be taken over; None for nothing. Holds it.

        Replicas that are of no use, such as one that was being replaced, are ended.

        Raises:
            DeployError, ClusterUnavailableError: As `hold`.
        """


class Entrance(Protocol):
    """One process's way to one service that another process has deployed."""

    def look_up(self, seen: int, timeout: float) -> Found | None:
        """
        What is known of the service; waits at most *timeout* seconds for another version than *seen*, 0 for none.

        Returns:
            None if there is no directory: nothing has been deployed yet, or the process that did has ended.

        Raises:
            ClusterUnavailableError: This process is not connected to the cluster, or that does not answer.
            CallError: What it says cannot be read here.
        """

    def watch(self, seen: int, tell: Callable[[Found | None], None]) -> None:
        """
        Have *tell* called once, when there is another version than *seen*, or after a while; never blocks.

        With *seen* it says that it has taken in that version. *tell* is called in a thread that has nothing else to do,
        with None if there is no directory.
        """

    def attach(self, replica: ListedReplica, events: ReplicaEvents, clock: Clock) -> Replica:
        """Reach a replica that runs; `ReplicaEvents.changed` is not told. It is never stopped from here."""

    def close(self) -> None:
        """Let go of everything here. Idempotent."""


# -- who gets the next call
# --------------------------------------------------------------------------------------------------


class Candidate(Protocol):
    """A replica as balancers see it; read-only."""

    @property
    def id(self) -> str:
        """Such as `"kv#0"`."""

    @property
    def index(self) -> int:
        """Position among the service's replicas."""

    @property
    def node(self) -> str | None:
        """Name of the node, None for this process."""

    @property
    def slots(self) -> int:
        """Calls at once, at most."""

    @property
    def inflight(self) -> int:
        """Calls that hold a slot now; read without a lock, so it may lag by a call."""

    @property
    def waiting(self) -> int:
        """
        Calls that wait for this replica: under a binding balancer those for it alone, else all of the service.

        Read without a lock, so it may lag by a call.
        """


class Balancer(Protocol):
    """
    Who gets the next call: one object for each service.

    It may have an attribute `key_argument: str | None`, the name of the methods' argument that is a call's key. The
    plan refuses a name that no served method has. A key given by `with_options(key=...)` wins.
    """

    binding: bool
    """
    Whether a call with a key must wait for the replica chosen.

    If False and that replica is busy, the first free one takes the call; so it is with calls without a key in any case.
    """

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        """
        Compose the choice among *candidates*, which is never empty.

        Asked once for each change of the set. What it returns runs for every call in the caller's thread, so it must
        neither lock nor wait. It gets the call's key, which is hashable, or None. For a key of a type that it cannot
        use it raises `errors.InvalidKeyError`, which the caller gets; whatever else it raises is a fault, after which
        replicas are taken in turn and the balancer is not asked again before the set changes.
        """


# -- who watches
# ---------------------------------------------------------------------------------------------------------------


class Recorder(Protocol):
    """Counts the calls of one replica; lives in the replica's process."""

    def writer(self) -> Callable[[int, int, float, float], None]:
        """
        A `record(method, outcome, wait_s, run_s)` for one worker, which never uses it from two threads at once.

        It runs before the caller is released, so it must be quick. On the calling side it is told of calls that were
        given up: with the time that they waited if they never started, else with the whole time since the call as
        *run_s*, because how much of it they waited is known only where they run.
        """

    def snapshot(self) -> Mapping[str, Any]:
        """What was counted: picklable; read without stopping the workers, so it may lag by a call."""


class WatchedReplica(Protocol):
    """A replica as monitors see it."""

    @property
    def id(self) -> str:
        """Such as `"kv#0"`."""

    @property
    def state(self) -> ReplicaState:
        """Where it is in its life; only replicas that are `ready`, `unready` or `unhealthy` can be checked."""

    @property
    def slots(self) -> int:
        """Calls at once, at most."""

    @property
    def abandoned(self) -> int:
        """Slots held by calls whose callers have given up; may lag by a call."""

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """As `Replica.control`; whoever asks may wait for ever if the replica hangs, so ask on a thread of your own."""

    def mark(self, state: ReplicaState, reason: str) -> None:
        """
        Say that the replica is `unhealthy`, `unready`, or `ready` again, and why.

        One that is not ready gets no new calls as long as there is one that is; what it runs goes on. Does nothing for
        a replica that is starting or leaving. Any thread, but not while holding a lock that `Monitor.event` takes.
        """


class WatchedService(Protocol):
    """A service as monitors see it; all of it may be used from any thread."""

    @property
    def name(self) -> str:
        """Name of the service."""

    @property
    def config(self) -> Any:
        """Its `ServiceDeploymentConfig`."""

    @property
    def clock(self) -> Clock:
        """For timers and time-outs."""

    @property
    def hooks(self) -> frozenset[str]:
        """Names of the life-cycle hooks that the service's class has, such as `"check_health"`."""

    def replicas(self) -> Sequence[WatchedReplica]:
        """Those that there are now; an object stands for the same replica for as long as that lives."""

    def on_given_up(self, look: Callable[[], None]) -> None:
        """Have *look* called whenever a caller has given up a call, which may still run; any thread, must not block."""


class Monitor(Protocol):
    """
    Watches a service: one object on the calling side, and one in each replica's process.

    It may also have two methods that are used if they are there:

    * `attach(service: WatchedService) -> None`, called once on the calling side, before the service starts, lets it
      look at the replicas by itself.
    * `merge(snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]` gives one snapshot for several. With it, what
      replicas have counted is kept when they leave; without it, their counts leave with them.
    """

    def recorder(self, who: ReplicaInfo, methods: tuple[str, ...], /) -> Recorder | None:
        """A recorder for one replica, or for the calling side; None if this monitor counts no calls."""

    def refused(self, method: int, reason: str, /) -> None:
        """A call was not accepted; *reason* is `"overloaded"` or `"stopped"`. Calling side, any thread."""

    def event(self, event: Event) -> None:
        """Something was decided. Calling side, any thread; must not block."""

    def summary(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """What `get_service_status` shows, merged from the recorders' snapshots."""

    def close(self) -> None:
        """The service stopped. Idempotent."""
