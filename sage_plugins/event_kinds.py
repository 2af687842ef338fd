"""What events can be about; apart from the other values, because only monitors ask."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["EventKind"]


class EventKind(StrEnum):
    """
    What an `Event` can be about; there are no other kinds.

    A later version may add some: a monitor should pass over kinds that it does not know.
    """

    REPLICA_STARTING = "replica_starting"
    """A replica is being started."""

    REPLICA_READY = "replica_ready"
    """A replica got ready, or is well again."""

    REPLICA_REMARK = "replica_remark"
    """A replica works, but not as well as it could; the reason says how and why."""

    REPLICA_UNREADY = "replica_unready"
    """A replica asks for no calls at the moment."""

    REPLICA_UNHEALTHY = "replica_unhealthy"
    """A replica does not pass its health checks."""

    REPLICA_FAILED = "replica_failed"
    """A replica could not be started, or died."""

    REPLICA_KILLED = "replica_killed"
    """A replica was killed because a call ran on there after its deadline; the reason names the method."""

    REPLICA_DRAINING = "replica_draining"
    """A replica gets no new calls and finishes what it has."""

    REPLICA_STOPPED = "replica_stopped"
    """A replica has stopped; the reason says how many calls still run."""

    REPLICA_LEFT = "replica_left"
    """A replica goes on without this process."""

    REPLACEMENT_DELAYED = "replacement_delayed"
    """The replacement of a replica waits for its back-off."""

    REPLACEMENT_REFUSED = "replacement_refused"
    """The target can place no replacement at the moment."""

    REPLACEMENT_FAILED = "replacement_failed"
    """A replacement did not become ready."""

    RECYCLING = "recycling"
    """A replica is replaced that has reached a limit of `recycle`; the reason has the numbers."""

    RECYCLED = "recycled"
    """A fresh replica serves in its place."""

    RECYCLING_FAILED = "recycling_failed"
    """No fresh replica became ready; the old one goes on, and it is tried again later."""

    CRASH_LOOP = "crash_loop"
    """A replica is not replaced any more: too many starts have failed."""

    ADOPTED = "adopted"
    """Replicas of an earlier process go on."""

    CHANGE_REQUESTED = "change_requested"
    """Somebody asked for a change from outside the process; the reason says who, and for what."""

    SCALED = "scaled"
    """The number of replicas was changed."""

    SCALING_REFUSED = "scaling_refused"
    """The autoscaler wants more replicas than there is room for; the service goes on with what it has."""

    SCALING_FAILED = "scaling_failed"
    """What the autoscaler decided could not be done, or it failed itself; the number of replicas stays."""

    RESTARTED = "restarted"
    """Every replica was replaced, or the one that the reason names."""

    RESTART_FAILED = "restart_failed"
    """A restart of the service failed; the old replicas go on."""

    RECONFIGURED = "reconfigured"
    """The replicas took a changed `user_config` without being replaced."""

    ROLL_STARTED = "roll_started"
    """Replicas of a changed version start to take the place of those that run; the reason says within which limits."""

    ROLL_PROGRESS = "roll_progress"
    """A replica of the changed version has its place now."""

    ROLL_DONE = "roll_done"
    """Every replica is of the changed version."""

    ROLLED_BACK = "rolled_back"
    """The changed version did not become ready, and the version before it comes back."""

    ROLL_STOPPED = "roll_stopped"
    """The changed version did not become ready, and replicas of both versions may run."""

    OVERLOADED = "overloaded"
    """Calls are turned away because they could not be answered in time; told once, and again after 10 s of calm."""

    RETRIED = "retried"
    """A call is tried again; told once, and then at most once a second."""

    RETRY_REFUSED = "retry_refused"
    """A call that could be tried again is not; told as RETRIED."""

    HEDGED = "hedged"
    """A call that has no answer yet gets a second attempt on another replica; told as RETRIED."""

    HEDGE_REFUSED = "hedge_refused"
    """A call that should get a second attempt does not, because the budget is used up; told as RETRIED."""

    CIRCUIT_OPENED = "circuit_opened"
    """The service has failed too often, and its circuit breaker refuses calls."""

    CIRCUIT_HALF_OPEN = "circuit_half_open"
    """The circuit breaker lets a few calls through, to see whether the service works again."""

    CIRCUIT_CLOSED = "circuit_closed"
    """The service works again, and its circuit breaker lets all calls through."""

    REPLICA_EJECTED = "replica_ejected"
    """A replica gets no calls for a while, because it fails or is far slower than its peers."""

    EJECTION_PROBED = "ejection_probed"
    """A replica that got no calls gets one, to see whether it works again."""

    EJECTION_ENDED = "ejection_ended"
    """A replica that got no calls works again; or all replicas get calls, because too many would get none."""

    BALANCER_CHANGED = "balancer_changed"
    """Another load balancer chooses from now on."""

    BALANCER_FENCED = "balancer_fenced"
    """The load balancer failed, and replicas are taken in turn."""

    BALANCING_ENABLED = "balancing_enabled"
    """The default load balancer is used because there is more than one replica now."""
