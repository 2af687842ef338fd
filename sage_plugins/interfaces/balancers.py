"""Load balancers, and the replicas as they see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


__all__ = ["Balancer", "Candidate", "KeyedBalancer", "ObservingBalancer", "Picker"]


#: What a balancer returns: `pick(key, method)` returns the replica that takes the next call. It gets the call's key and
#: the name of its method.
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
        """Name of the node; None for this process."""

    @property
    def slots(self) -> int:
        """Maximum number of calls at once."""

    @property
    def inflight(self) -> int:
        """Calls that hold a slot now; read without a lock, so it may lag by a call."""

    @property
    def waiting(self) -> int:
        """
        Calls that wait: with a binding balancer those for this replica alone, otherwise all of the service.

        Read without a lock, so it may lag by a call.
        """


class Balancer(Protocol):
    """
    Decides which replica gets the next call. There is one object for each service and calling process.

    Its registration's `create(options, where)` gets the options, and a `Where` with the names of the service and of its
    environment.
    """

    binding: bool
    """
    Whether a call with a key must wait for the chosen replica.

    If False and that replica is busy, the first free one takes the call. Calls without a key always go to the first
    free one then.
    """

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        """
        Return the function that chooses among *candidates*, which is never empty.

        Called for the first call, and once after each change of the candidates. The returned function runs for every
        call in the caller's thread, so it must neither lock nor wait. It gets the call's key, which is hashable, or
        None, and the name of the method. For a key of an unsupported type it raises `errors.InvalidKeyError`, which the
        caller gets. Any other exception is a fault: replicas then take turns, and the balancer is not asked again until
        the candidates change.
        """


class KeyedBalancer(Balancer, Protocol):
    """
    A balancer that takes the key of a call from an argument; its registration declares `names_key`.

    A key given by `with_options(key=...)` takes precedence.
    """

    key_argument: str | None
    """
    Name of the method argument that is a call's key; None if only callers give keys.

    The plan refuses a name that no served method has.
    """


class ObservingBalancer(Balancer, Protocol):
    """
    A balancer that learns from the calls that it placed; its registration declares `observes`.

    Without `observe`, calls pay nothing for observation.
    """

    def observe(self, candidate: Candidate, method: str, outcome: int, wait_s: float, run_s: float, /) -> None:
        """
        A call that had a slot of *candidate* has ended. The candidate may have left since.

        Called once for each call that the balancer placed, by the thread that ends the call, before the caller is
        released. So it must neither lock for long nor wait. An exception is a fault, as in `picker`. With a single
        replica it is not called, because there is nothing to choose.

        Args:
            candidate: The replica that had the call when it ended; it may differ from the chosen one.
            method: Name of the method.
            outcome: One of `Outcome`.
            wait_s: Seconds from the call until it got the slot.
            run_s: Seconds from there to the end, including the way to the replica and back.
        """
