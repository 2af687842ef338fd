"""Who gets the next call: the balancer and the replicas as it sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


__all__ = ["Balancer", "Candidate", "Picker"]


#: What a balancer composes: gives the replica that takes the next call, from the call's key.
Picker: TypeAlias = "Callable[[Hashable | None], Candidate]"


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
