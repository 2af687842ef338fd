"""The interface of load balancers, and the view of replicas that they get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


__all__ = ["Balancer", "Candidate", "KeyedBalancer", "ObservingBalancer", "Picker"]


#: Chooses a replica: `pick(key, method)` gets a call's key and the name of its method, and returns the replica.
Picker: TypeAlias = "Callable[[Hashable | None, str], Candidate]"


class Candidate(Protocol):
    """A replica as balancers see it; read-only. Numbers of calls may be off by one."""

    @property
    def id(self) -> str:
        """As `Replica.id`."""

    @property
    def index(self) -> int:
        """As `Replica.index`."""

    @property
    def node(self) -> str | None:
        """As `Replica.node`."""

    @property
    def slots(self) -> int:
        """As `Replica.slots`."""

    @property
    def inflight(self) -> int:
        """Calls that hold a slot now."""

    @property
    def waiting(self) -> int:
        """Waiting calls: for this replica if the balancer is binding, else for the service."""


class Balancer(Protocol):
    """Chooses the replica for the next call. Each calling process has one object per service."""

    binding: bool
    """
    Whether a call with a key waits for the chosen replica.

    If not, the first free replica takes the call when the chosen one is busy. A call without a key never waits for a
    certain replica.
    """

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        """
        Return the function that chooses among *candidates*, which is never empty.

        The core calls this for the first call, and once after each change of the candidates. The function runs in the
        caller's thread for every call: it must not lock or wait. For a key (hashable, or None) of an unsupported type,
        it raises `errors.InvalidKeyError` to the caller. After any other exception, replicas take turns until the
        candidates change.
        """


class KeyedBalancer(Balancer, Protocol):
    """
    A balancer that declares `names_key`: it takes a call's key from an argument.

    `with_options(key=...)` takes precedence.
    """

    key_argument: str | None
    """
    Name of the method argument that is the key; None if only callers give keys.

    The plan refuses a name that is no argument of a served method.
    """


class ObservingBalancer(Balancer, Protocol):
    """A balancer that declares `observes`: it learns from its calls."""

    def observe(self, candidate: Candidate, method: str, outcome: int, wait_s: float, run_s: float, /) -> None:
        """
        Learn from an ended call that the balancer placed. Not called with a single replica.

        Runs in the thread that ends the call, before the caller wakes: do not wait, or hold a lock that is not
        reentrant. Exceptions as in `picker`.

        Args:
            candidate: The replica that had the call at its end; maybe not the chosen one, and maybe gone.
            method: Its name.
            outcome: One of `Outcome`.
            wait_s: Seconds from the call to the slot.
            run_s: Seconds from the slot to the end, including the way to the replica and back.
        """
