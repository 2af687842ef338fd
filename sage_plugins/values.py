"""
The values that the core and its plugins exchange: read-only, picklable, with little behaviour.

Every process creates these classes at its start. So most are named tuples: creating an attrs class takes five times as
long. `Problem`, the only attrs class, is created at its first use. Annotations in this module are not strings, because
a named tuple would compile each string.
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

        globals()[name] = Problem  # the next access does not call this function
        return Problem


class Outcome:
    """How a call ended. Not an enum, whose members cost a look-up for each call."""

    OK: Final = 0
    """The method returned a result."""
    ERROR: Final = 1
    """The method raised."""
    TIMEOUT: Final = 2
    """It timed out, waiting or running."""
    CANCELLED: Final = 3
    """The caller cancelled it."""
    DIED: Final = 4
    """The replica died."""
    STOPPED: Final = 5
    """The service stopped before it was answered."""

    DROPPED: Final = -1
    """Not counted: another attempt was answered and counted."""

    NAMES: Final = ("ok", "error", "timeout", "cancelled", "died", "stopped")
    """Names in `ServiceMetrics.outcomes`, by number."""


class MethodKind(StrEnum):
    """What a call of a method returns."""

    SYNC = "sync"
    ASYNC = "async"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async_generator"


#: Kinds of methods that need an event loop, and can be stopped while they run.
COROUTINES: Final = (MethodKind.ASYNC, MethodKind.ASYNC_GENERATOR)

#: Kinds of methods that return many items.
GENERATORS: Final = (MethodKind.GENERATOR, MethodKind.ASYNC_GENERATOR)


class BatchPlan(NamedTuple):
    """
    How a method's calls are answered in batches.

    Attributes:
        name: Name of the batch method.
        kind: What it returns.
        size: Maximum calls in a batch.
        wait: Seconds that an idle worker waits for more calls.
    """

    name: str
    kind: MethodKind
    size: int
    wait: float


class MethodPlan(NamedTuple):
    """
    The settings of one served method.

    Attributes:
        index: Position in the method table, from 0.
        name: Name in the class.
        kind: What a call returns.
        idempotent: Whether it may run twice; from `@idempotent` or `methods.<name>.idempotent`.
        timeout: Seconds from call to answer, for a generator for each item; inf: no limit.
        max_concurrency: Maximum calls at once in a replica; None: all slots.
        batch: None for no batches.
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
    What `with_options` sets for a handle's calls.

    Attributes:
        key: Key for balancers that send equal keys to the same replica, or None.
        idempotent: Whether calls may run twice; None: as the method declares.
        priority: With `overload: priority`, higher ones start first.
    """

    key: Hashable | None = None
    idempotent: bool | None = None
    priority: int = 0

    def may_run_twice(self, method: MethodPlan) -> bool:
        """Whether calls of *method* may run twice."""
        return method.idempotent if self.idempotent is None else self.idempotent


class Timing(NamedTuple):
    """
    How long a call waited and ran, without the way to the replica and back.

    Attributes:
        queue_s: Seconds from acceptance to the method's start.
        run_s: Seconds that the method ran; None while it runs, or if its end is unknown.
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
        load: Imports and returns the `click.Command`, at its use.
        summary: One line for `sage-deploy --help`.
    """

    name: str
    load: Callable[[], Any]
    summary: str


class EnvironmentOptions(NamedTuple):
    """
    Options for a whole environment, at the top of a file or in `Environment(options=...)`.

    A plugin's registrations with the same ID here must have equal objects.

    Attributes:
        id: Key below the top-level `options`, such as `"ray"`.
        options: Their attrs class, or a function that returns it.
        summary: One line about them.
    """

    id: str
    options: type | Callable[[], type]
    summary: str

    def options_class(self) -> type:
        """Return the attrs class."""
        return self.options if isinstance(self.options, type) else self.options()


class Explanation(NamedTuple):
    """
    A line of the plan in which a plugin explains its decision.

    Attributes:
        text: One line.
        kind: `"decides"`: a decision. `"enforced"`: a limit that is always kept. `"advisory"`: a setting that is noted
            but not enforced. `"timeout"`: what a timeout can stop.
    """

    text: str
    kind: Literal["decides", "enforced", "advisory", "timeout"] = "decides"


class Registration:
    """
    One ID that a plugin offers.

    Attributes:
        id: What a configuration names.
        create: `create(options)` makes the object, from an instance of the class below or None; for a load balancer
            `create(options, where)`, with a `Where`. Must be importable by name, to be pickled. Import expensive
            modules in its body.
        summary: One line for `plugins list` and the plan.
        options: attrs class of the service's `options: {<id>: {...}}`, or a function that returns it, or None. A
            numeric attribute with `metadata={"unit": "seconds"}` also takes texts such as `"250ms"`, one with `"MiB"`
            texts such as `"4Gi"`.
        check: `check(config, options)` yields problems of a configuration that names this ID; or None.
        explain: `explain(config, options)` yields lines for the plan, each a text or an `Explanation`; or None.
        capabilities: What the object can do, such as `"in_process"`. The core depends on some.
        environment_options: Options of the environment that the plugin reads, or None. With them, `create`, `check` and
            `explain` get an instance of their class as last argument.
        api: Version of the plugin contract for which the plugin is written. Other versions than `API` are refused.
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
        """Return the attrs class, or None."""
        options = self.options
        return options if options is None or isinstance(options, type) else options()


class Source(Protocol):
    """The plugin that a registration comes from."""

    @property
    def source(self) -> str:
        """Its distribution and version, such as `"sage-deploy-threading 0.1.0"`."""


class Where(NamedTuple):
    """
    The service for which a plugin's object is made.

    Attributes:
        service: Its name.
        environment: Its environment's name; None for a task outside any.
    """

    service: str
    environment: str | None = None


class Choice(NamedTuple):
    """
    A registration chosen for a service, with its options.

    Attributes:
        registration: The registration.
        options: Instance of its options class, or None.
        plugin: Where it comes from.
        environment: Instance of the class of `environment_options`, or None.
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
        """Show only the ID, because options may contain secrets."""
        return f"<Choice {self.id!r} from {self.source!r}>"

    @property
    def source(self) -> str:
        """Distribution and version of its plugin."""
        return self.plugin.source

    @property
    def settings(self) -> tuple[Any, ...]:
        """Last arguments of `create`, `check` and `explain`: the options, then any of the environment."""
        reads_more = self.registration.environment_options is not None
        return (self.options, self.environment) if reads_more else (self.options,)

    def create(self, *where: Where) -> Any:
        """Return a new object. Only a load balancer needs a `Where`."""
        return self.registration.create(self.options, *where, *self.settings[1:])


class Limits(NamedTuple):
    """
    What a strategy may use in one replica.

    Attributes:
        threads: Permanent threads, from `thread_count`.
        max_threads: Maximum threads, from `thread_pool_size` or `max_thread_count`; None if neither is set.
        max_concurrency: Maximum coroutines at once on an event loop.
    """

    threads: int
    max_threads: int | None
    max_concurrency: int


class ReplicaInfo(NamedTuple):
    """
    Whose calls a recorder counts.

    Attributes:
        service: Its name.
        replica: The replica's ID, such as `"kv#0"`; None for the calling side.
        node: The node's name; None for this machine.
    """

    service: str
    replica: str | None
    node: str | None = None


class ReplicaSpec(NamedTuple):
    """
    What a process needs to run one replica; picklable if the class and its arguments are.

    Attributes:
        service: Its name.
        index: Position in the service, from 0.
        factory: `factory.create_service(ctx)` builds the instance.
        strategy: The threading strategy.
        limits: Its threads and coroutines.
        methods: The served methods, ordered by index.
        monitors: Those that count the calls.
        config: The service's configuration.
        generation: Number of earlier replicas at this position.
        find_service: Returns handles to other services, outside the deploying process; inside, use
            `Surroundings.service`. None if no handle can be made.
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
        """ID: `"kv#0"` for the first replica of `kv`, `"kv#0.1"` for its replacement."""
        return f"{self.service}#{self.index}" + (f".{self.generation}" if self.generation else "")


class Placed(NamedTuple):
    """
    Where a target will start a replica.

    Attributes:
        node: Its name; None for this process.
        reason: Why there.
        refused: Why not elsewhere: reason by node.
    """

    node: str | None
    reason: str
    refused: Mapping[str, str] = MappingProxyType({})


class Refused(NamedTuple):
    """
    Why a target can place a replica nowhere.

    Attributes:
        reason: One sentence.
        nodes: Reason by node.
        rule: ID of the rule, such as `"E802"`, or "".
    """

    reason: str
    nodes: Mapping[str, str] = MappingProxyType({})
    rule: str = ""

    @property
    def line(self) -> str:
        """Rule and reason, as in the plan: `error E803: it needs 1 GPU, and ...`."""
        return f"error {self.rule}: {self.reason}" if self.rule else self.reason

    def __str__(self) -> str:
        """Return `line`, followed by the reason for each node on its own line."""
        return self.line + "".join(f"\n  {node}: {reason}" for node, reason in self.nodes.items())


class ReplicaState(StrEnum):
    """
    State of a replica: pending -> starting -> ready <-> unhealthy -> draining -> stopped, or failed.

    `unready` is like `unhealthy`, but nothing is wrong: the replica asks for no calls now. `crash_loop`: not replaced
    any more, because too many replacements failed to start.
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
    What a runner does now.

    Attributes:
        threads: Number of its threads.
    """

    threads: int


class Event(NamedTuple):
    """
    A decision of the core or a plugin.

    Attributes:
        service: Its name; empty for all.
        kind: An `event_kinds.EventKind`, as a plain string.
        reason: Why, for people.
        replica: ID of the replica concerned, or None.
    """

    service: str
    kind: str
    reason: str
    replica: str | None = None
