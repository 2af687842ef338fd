"""The interface of load balancers, and the view of replicas that they get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


__all__ = ["Balancer", "Candidate", "KeyedBalancer", "ObservingBalancer", "Picker"]


#: Chooses a replica: `pick(key, method)` gets a call's key and the name of its method, and returns the replica.
Picker: TypeAlias = "Callable[[Hashable | None, str], Candidate]"


class Candidate(Protocol):
    """A replica as balancers see it; read-only. Its numbers of calls may be off by one."""

    @property
    def id(self) -> str:
        """ID, such as `"kv#0"`."""

    @property
    def index(self) -> int:
        """Position among the service's replicas, from 0."""

    @property
    def node(self) -> str | None:
        """Name of the node; None for this process."""

    @property
    def slots(self) -> int:
        """Maximum number of calls at once."""

    @property
    def inflight(self) -> int:
        """Calls that hold a slot now."""

    @property
    def waiting(self) -> int:
        """Calls that wait: for this replica with a binding balancer, for the service with any other."""


class Balancer(Protocol):
    """Chooses the replica for the next call. Each calling process has one object for each service."""

    binding: bool
    """
    Whether a call with a key must wait for the chosen replica.

    If False and the chosen replica is busy, the first free replica takes the call. A call without a key never waits for
    a certain replica.
    """

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        """
        Return the function that chooses among *candidates*, which is never empty.

        The core calls this for the first call, and once after each change of the candidates. The function runs for
        every call in the caller's thread, so it must not take a lock or wait. For a key (hashable, or None) of an
        unsupported type, it raises `errors.InvalidKeyError`, which the caller gets. Any other exception is a fault: the
        replicas take turns until the candidates change.
        """


class KeyedBalancer(Balancer, Protocol):
    """
    A balancer that takes the key of a call from an argument. Its registration declares `names_key`.

    `with_options(key=...)` takes precedence.
    """

    key_argument: str | None
    """
    Name of the method argument that is the key of a call; None if only callers give keys.

    The plan refuses a name that no served method has as an argument.
    """


class ObservingBalancer(Balancer, Protocol):
    """A balancer that learns from the calls that it placed. Its registration declares `observes`."""

    def observe(self, candidate: Candidate, method: str, outcome: int, wait_s: float, run_s: float, /) -> None:
        """
        Learn from a call that the balancer placed and that has ended. Not called with a single replica.

        Runs in the thread that ends the call, before the caller wakes: it must not wait, or hold a lock that is
        not reentrant. An exception is a fault, as in `picker`.

        Args:
            candidate: The replica that had the call when it ended. It may differ from the chosen one, and may have
                left.
            method: Name of the method.
            outcome: One of `Outcome`.
            wait_s: Seconds from the call until it got the slot.
            run_s: Seconds from the slot to the end, including the way to the replica and back.
        """
