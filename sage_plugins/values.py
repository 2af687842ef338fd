"""
Values that cross the line between the core and its plugins: read-only, picklable, next to no behaviour.

Every process start pays for what is made here. So most are named tuples: an attrs class takes five times as long, and
the one that there is, `Problem`, is made when it is first used. Their annotations are no texts, which named tuples
would compile one by one.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from sage_plugins.problems import Problem

__all__ = [
    "API",
    "COROUTINES",
    "GENERATORS",
    "BatchPlan",
    "CallOptions",
    "Choice",
    "Command",
    "EnvironmentOptions",
    "Event",
    "Explanation",
    "Limits",
    "MethodKind",
    "MethodPlan",
    "Outcome",
    "Placed",
    "Problem",
    "Refused",
    "Registration",
    "ReplicaInfo",
    "ReplicaSpec",
    "ReplicaState",
    "RunnerStats",
    "Source",
    "Timing",
    "Where",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name != "Problem":
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        from sage_plugins.problems import Problem

        globals()[name] = Problem  # so that the next access does not come here
        return Problem


class Outcome:
    """How a call ended, as small integers: an enum's members cost a look-up each on the path of a call."""

    OK: Final = 0
    """The method gave a result."""
    ERROR: Final = 1
    """The method raised."""
    TIMEOUT: Final = 2
    """Its time was over, in the queue or while it ran."""
    CANCELLED: Final = 3
    """Its caller cancelled it."""
    DIED: Final = 4
    """Its replica died."""
    STOPPED: Final = 5
    """The service stopped before it was answered."""

    DROPPED: Final = -1
    """Another attempt of it was answered, and is counted; this one is not."""

    NAMES: Final = ("ok", "error", "timeout", "cancelled", "died", "stopped")
    """What each is called in `ServiceMetrics.outcomes`."""


class MethodKind(StrEnum):
    """What calling a method gives."""

    SYNC = "sync"
    ASYNC = "async"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async_generator"


#: The methods that need an event loop, and that can be stopped while they run.
COROUTINES: Final = (MethodKind.ASYNC, MethodKind.ASYNC_GENERATOR)

#: The methods that give many answers, one after the other.
GENERATORS: Final = (MethodKind.GENERATOR, MethodKind.ASYNC_GENERATOR)


class BatchPlan(NamedTuple):
    """
    How calls of a method are answered together.

    Attributes:
        name: The method that answers several calls at once.
        kind: What calling that gives.
        size: Calls in a batch, at most.
        wait: Seconds that an idle worker waits for others to join.
    """

    name: str
    kind: MethodKind
    size: int
    wait: float


class MethodPlan(NamedTuple):
    """
    What is decided about one served method when the service is composed.

    Attributes:
        index: Position in the service's method table, from 0.
        name: Name in the class.
        kind: What calling it gives.
        idempotent: Whether it may run twice; from `@idempotent` or `methods.<name>.idempotent`.
        timeout: Seconds from call to answer, inf for no limit; of a generator, seconds for each item.
        max_concurrency: Calls at once in a replica, at most; None for as many as it has slots.
        batch: How its calls are answered together; None if each is on its own.
    """

    index: int  # type: ignore[assignment] # hides tuple.index, which nobody needs of it
    name: str
    kind: MethodKind
    idempotent: bool
    timeout: float
    max_concurrency: int | None = None
    batch: BatchPlan | None = None


class CallOptions(NamedTuple):
    """
    What `with_options` sets for all calls of a handle.

    Attributes:
        key: Key for balancers that send equal keys to the same replica; None for no key.
        idempotent: Whether calls may run twice; None for what the method declares.
        priority: Calls with a higher one start first, where the service asks for that.
    """

    key: Hashable | None = None
    idempotent: bool | None = None
    priority: int = 0

    def may_run_twice(self, method: MethodPlan) -> bool:
        """Whether calls of *method* may: their caller, or else the method, declares them idempotent."""
        return method.idempotent if self.idempotent is None else self.idempotent


class Timing(NamedTuple):
    """
    What the time of a call was spent on in its replica; the way there and back is not in it.

    Attributes:
        queue_s: Seconds from when it was accepted to when its method started.
        run_s: Seconds that its method ran; None while it does, or if its end is not known.
    """

    queue_s: float
    run_s: float | None


#: Version of the plugin contract: the hooks, the interfaces and these values.
API: Final = 1


class Command(NamedTuple):
    """
    A command that a plugin adds to `sage-deploy`.

    Attributes:
        name: What the user types, such as `"status"`.
        load: Gives the `click.Command`; called only when the command is used, so it imports what it needs.
        summary: One line for `sage-deploy --help`.
    """

    name: str
    load: Callable[[], Any]
    summary: str


class EnvironmentOptions(NamedTuple):
    """
    Options for a whole environment: they stand at the top of a file or in `Environment(options=...)`, in no service.

    All registrations of a plugin that name the same ID name an equal object.

    Attributes:
        id: Their key under the top-level `options`, such as `"ray"`.
        options: attrs class of the options, or a function that gives it; as for a registration.
        summary: One line: what they are about.
    """

    id: str
    options: type | Callable[[], type]
    summary: str

    def options_class(self) -> type:
        """The attrs class of the options."""
        return self.options if isinstance(self.options, type) else self.options()


class Explanation(NamedTuple):
    """
    A line of the plan in which a plugin says what it makes of a configuration.

    Attributes:
        text: What it says, in one line.
        kind: `"decides"`: what will be. `"enforced"`: a limit that is kept whatever happens. `"advisory"`: a setting
            that is noted, but that nothing here keeps. `"timeout"`: what the end of a call's time can stop.
    """

    text: str
    kind: Literal["decides", "enforced", "advisory", "timeout"] = "decides"


class Registration:
    """
    What a plugin returns from a `sage_register_*` hook for each ID that it offers.

    Attributes:
        id: What configuration names.
        create: Makes the object: `create(options)`, where *options* is an instance of the class below, or None without
            one. Of a load balancer: `create(options, where)`, with a `Where`. Must be importable by name, so that it
            can be pickled; imports whatever is heavy in its body.
        summary: One line for `plugins list` and the plan.
        options: attrs class of the service's `options: {<id>: {...}}`, or a function that gives it, so that it is made
            only when it is needed; None if there is nothing to set. A numeric attribute with
            `metadata={"unit": "seconds"}` takes texts such as `"250ms"` as well, one with `"MiB"` such as `"4Gi"`.
        check: `check(config, options)` gives the problems of a configuration that names this ID; None for none.
        explain: `explain(config, options)` gives lines for the plan: what this plugin decides, what it enforces, what
            is advisory, and what a timeout can stop. Each is a text, or an `Explanation`; None for none.
        capabilities: What the object declares that it can do, such as `"in_process"`; the core asks for a few of them.
        environment_options: Options for the whole environment that it reads, or None. With them, `create`, `check` and
            `explain` get one argument more, the last: an instance of their class.
        api: Version of the plugin contract that the plugin is written for; others than `API` are refused.
    """

    def __init__(  # noqa: PLR0913 - what is not given has a default
        self,
        id: str,
        create: Callable[..., Any],
        summary: str,
        *,
        options: type | Callable[[], type] | None = None,
        check: Callable[..., Iterable["Problem"]] | None = None,
        explain: Callable[..., Iterable[str | Explanation]] | None = None,
        capabilities: frozenset[str] = frozenset(),
        environment_options: EnvironmentOptions | None = None,
        api: int = API,
    ) -> None:
        """Set the attributes."""
        self.id = id
        self.create = create
        self.summary = summary
        self.options = options
        self.check = check
        self.explain = explain
        self.capabilities = capabilities
        self.environment_options = environment_options
        self.api = api

    def options_class(self) -> type | None:
        """The attrs class of the options, or None if there is nothing to set."""
        options = self.options
        return options if options is None or isinstance(options, type) else options()


class Source(Protocol):
    """Who brings a registration."""

    @property
    def source(self) -> str:
        """Such as `"sage-deploy-threading 0.1.0"`."""


class Where(NamedTuple):
    """
    For which service an object of a plugin is made.

    Attributes:
        service: Name of the service.
        environment: Name of its environment; None for a task that was made outside any environment.
    """

    service: str
    environment: str | None = None


class Choice(NamedTuple):
    """
    A registration chosen for a service, with its options.

    Attributes:
        registration: What was registered.
        options: Instance of the registration's options class, or None.
        plugin: Who brings it.
        environment: Instance of the class of its `environment_options`, or None.
    """

    registration: Registration
    options: Any
    plugin: Source
    environment: Any = None

    @property
    def id(self) -> str:
        """The registered ID."""
        return self.registration.id

    def __repr__(self) -> str:
        """The ID alone: options may hold secrets."""
        return f"<Choice {self.id!r} from {self.source!r}>"

    @property
    def source(self) -> str:
        """Who brings it, such as `"sage-deploy-threading 0.1.0"`."""
        return self.plugin.source

    @property
    def settings(self) -> tuple[Any, ...]:
        """The last arguments of `create`, `check` and `explain`: the options, then those of the environment if any."""
        reads_more = self.registration.environment_options is not None
        return (self.options, self.environment) if reads_more else (self.options,)

    def create(self, *where: Where) -> Any:
        """A new object of the plugin's; a load balancer is told *where* it is."""
        return self.registration.create(self.options, *where, *self.settings[1:])


class Limits(NamedTuple):
    """
    What a strategy may use in one replica.

    Attributes:
        threads: Threads that are kept, from `thread_count`.
        max_threads: Threads at most, from `thread_pool_size` or `max_thread_count`; None if neither is given.
        max_concurrency: Coroutines at once under an event loop.
    """

    threads: int
    max_threads: int | None
    max_concurrency: int


class ReplicaInfo(NamedTuple):
    """
    Who a recorder records for.

    Attributes:
        service: Name of the service.
        replica: Replica's id such as `"kv#0"`, or None for the calling side, which records the calls that it gave up.
        node: Name of the node, or None if that is this machine.
    """

    service: str
    replica: str | None
    node: str | None = None


class ReplicaSpec(NamedTuple):
    """
    Everything that a process needs to run one replica; picklable if the service class and its arguments are.

    Attributes:
        service: Name of the service.
        index: Position among the service's replicas, from 0.
        factory: Builds the instance: `factory.create_service(ctx)`.
        strategy: How the replica runs calls.
        limits: What the strategy may use.
        methods: The served methods, ordered by index.
        monitors: Whose recorders count the calls.
        config: The service's configuration.
        generation: How many replicas were at this position before it.
        find_service: Gives handles to other services in another process than the one that deploys, where
            `Surroundings.service` cannot be asked; None if there is no way.
    """

    service: str
    index: int  # type: ignore[assignment] # hides tuple.index, which nobody needs of it
    factory: Any
    strategy: Choice
    limits: Limits
    methods: tuple[MethodPlan, ...]
    monitors: tuple[Choice, ...]
    config: Any
    generation: int = 0
    find_service: Callable[[str], Any] | None = None

    @property
    def id(self) -> str:
        """`"kv#0"` for the first replica of `kv`, `"kv#0.1"` for the one that took its place."""
        return f"{self.service}#{self.index}" + (f".{self.generation}" if self.generation else "")


class Placed(NamedTuple):
    """
    Where a target will start a replica.

    Attributes:
        node: Name of the node, or None for this process.
        reason: Why there.
        refused: Why not elsewhere: reason by node, for the other nodes that were considered.
    """

    node: str | None
    reason: str
    refused: Mapping[str, str] = MappingProxyType({})


class Refused(NamedTuple):
    """
    Why a target cannot place a replica anywhere.

    Attributes:
        reason: In one sentence.
        nodes: Reason by node, for the nodes that were considered.
        rule: Id of the rule by which it is refused, such as `"E802"`; "" for none.
    """

    reason: str
    nodes: Mapping[str, str] = MappingProxyType({})
    rule: str = ""

    @property
    def line(self) -> str:
        """Rule and reason in one line, as the plan shows them: `error E803: it needs 1 GPU, and ...`."""
        return f"error {self.rule}: {self.reason}" if self.rule else self.reason

    def __str__(self) -> str:
        """The same, and the reason of each node on a line of its own."""
        return self.line + "".join(f"\n  {node}: {reason}" for node, reason in self.nodes.items())


class ReplicaState(StrEnum):
    """
    Where a replica is in its life: pending -> starting -> ready <-> unhealthy -> draining -> stopped, or failed.

    `unready` is beside `unhealthy`: the replica itself asks for no calls at the moment, and nothing is wrong with it.
    `crash_loop` is a failed one that is replaced no more, because too many starts in its place have failed.
    """

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"
    CRASH_LOOP = "crash_loop"


class RunnerStats(NamedTuple):
    """
    What a runner does at the moment.

    Attributes:
        threads: Threads that it has.
    """

    threads: int


class Event(NamedTuple):
    """
    Something that the core or a plugin decided, with the reason.

    Attributes:
        service: Name of the service; empty if it is about all.
        kind: What happened: one of `event_kinds.EventKind`, as a plain string.
        reason: Why, for a human.
        replica: Replica's id, if it is about one.
    """

    service: str
    kind: str
    reason: str
    replica: str | None = None
