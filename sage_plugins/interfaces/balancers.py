"""Who gets the next call: the balancer and the replicas as it sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


__all__ = ["Balancer", "Candidate", "KeyedBalancer", "ObservingBalancer", "Picker"]


#: What a balancer composes: `pick(key, method)` gives the replica that takes the next call, from the call's key and the
#: name of its method.
Picker: TypeAlias = "Callable[[Hashable | None, str], Candidate]"


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
    Who gets the next call: one object for each service and calling process.

    Its registration's `create(options, where)` gets a `Where` beside the options: the names of the service and of its
    environment.
    """

    binding: bool
    """
    Whether a call with a key must wait for the replica chosen.

    If False and that replica is busy, the first free one takes the call; so it is with calls without a key in any case.
    """

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        """
        Compose the choice among *candidates*, which is never empty.

        Asked by the first call, and then once for each change of the set. What it returns runs for every call in the
        caller's thread, so it must neither lock nor wait. It gets the call's key, which is hashable, or None, and the
        name of the method. For a key of a type that it cannot use it raises `errors.InvalidKeyError`, which the caller
        gets; whatever else it raises is a fault, after which replicas are taken in turn and the balancer is not asked
        again before the set changes.
        """


class KeyedBalancer(Balancer, Protocol):
    """
    A balancer that takes the key of a call from an argument; its registration declares the capability `names_key`.

    A key given by `with_options(key=...)` wins.
    """

    key_argument: str | None
    """
    Name of the methods' argument that is a call's key; None if only callers give keys.

    The plan refuses a name that no served method has.
    """


class ObservingBalancer(Balancer, Protocol):
    """
    A balancer that learns from the calls that it placed; its registration declares the capability `observes`.

    A balancer without `observe` costs calls nothing for it.
    """

    def observe(self, candidate: Candidate, method: str, outcome: int, wait_s: float, run_s: float, /) -> None:
        """
        A call has ended that got a slot of *candidate*, which may have left since.

        Told once for each such call, from the thread that ends it and before its caller is released: it must neither
        lock for long nor wait. What it raises is a fault, as of `picker`. Only calls that it placed are told: with a
        single replica there is nothing to choose.

        Args:
            candidate: The replica that had the call when it ended; it may be another one than was chosen.
            method: Name of the method.
            outcome: One of `Outcome`.
            wait_s: Seconds from the call until it got the slot.
            run_s: Seconds from there to the end, the way to the replica and back included.
        """
