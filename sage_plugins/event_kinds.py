"""The kinds of events. A separate module, because only monitors need them."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["EventKind"]


class EventKind(StrEnum):
    """
    All kinds of an `Event`.

    A later version may add kinds, so a monitor should ignore unknown ones.
    """

    REPLICA_STARTING = "replica_starting"
    """A replica is being started."""

    REPLICA_READY = "replica_ready"
    """A replica became ready, or is healthy again."""

    REPLICA_REMARK = "replica_remark"
    """A replica works, but not as well as it could; the reason says in what way."""

    REPLICA_UNREADY = "replica_unready"
    """A replica asks for no calls at the moment."""

    REPLICA_UNHEALTHY = "replica_unhealthy"
    """A replica does not pass its health checks."""

    REPLICA_FAILED = "replica_failed"
    """A replica could not be started, or died."""

    REPLICA_KILLED = "replica_killed"
    """A replica was killed because a call still ran there after its deadline; the reason names the method."""

    REPLICA_DRAINING = "replica_draining"
    """A replica gets no new calls and finishes its present ones."""

    REPLICA_STOPPED = "replica_stopped"
    """A replica has stopped; the reason says how many calls still run."""

    REPLICA_LEFT = "replica_left"
    """A replica continues without this process, which has left it."""

    REPLACEMENT_DELAYED = "replacement_delayed"
    """A replacement starts only after a backoff."""

    REPLACEMENT_REFUSED = "replacement_refused"
    """The target cannot place a replacement at the moment."""

    REPLACEMENT_FAILED = "replacement_failed"
    """A replacement did not become ready."""

    RECYCLING = "recycling"
    """A replica that reached a limit of `recycle` is being replaced; the reason has the numbers."""

    RECYCLED = "recycled"
    """A new replica serves in its place."""

    RECYCLING_FAILED = "recycling_failed"
    """No new replica became ready; the old one goes on, and recycling is tried again later."""

    CRASH_LOOP = "crash_loop"
    """A replica is not replaced any more, because too many starts have failed."""

    ADOPTED = "adopted"
    """This process took over replicas of an earlier process."""

    CHANGE_REQUESTED = "change_requested"
    """Somebody asked for a change from outside the process; the reason says who, and for what."""

    SCALED = "scaled"
    """The number of replicas was changed."""

    SCALING_REFUSED = "scaling_refused"
    """The autoscaler wants more replicas than there is room for; the service goes on with its present ones."""

    SCALING_FAILED = "scaling_failed"
    """The autoscaler failed, or its decision could not be carried out; the number of replicas stays."""

    RESTARTED = "restarted"
    """Every replica was replaced, or the one that the reason names."""

    RESTART_FAILED = "restart_failed"
    """A restart of the service failed; the old replicas go on."""

    RECONFIGURED = "reconfigured"
    """The replicas took a changed `user_config` without being replaced."""

    ROLL_STARTED = "roll_started"
    """Replicas of a changed version begin to replace the running ones; the reason has the limits."""

    ROLL_PROGRESS = "roll_progress"
    """A replica of the changed version has replaced another."""

    ROLL_DONE = "roll_done"
    """Every replica is of the changed version."""

    ROLLED_BACK = "rolled_back"
    """The changed version did not become ready; the version before it is restored."""

    ROLL_STOPPED = "roll_stopped"
    """The changed version did not become ready; replicas of both versions may run."""

    OVERLOADED = "overloaded"
    """Calls are refused because they could not be answered in time; sent once, again after 10 s without refusals."""

    RETRIED = "retried"
    """A call is retried; sent once, then at most once a second."""

    RETRY_REFUSED = "retry_refused"
    """A call that could be retried is not; sent as often as RETRIED."""

    HEDGED = "hedged"
    """A call without an answer gets a second attempt on another replica; sent as often as RETRIED."""

    HEDGE_REFUSED = "hedge_refused"
    """A call gets no second attempt, because the budget is used up; sent as often as RETRIED."""

    CIRCUIT_OPENED = "circuit_opened"
    """The service has failed too often, and its circuit breaker refuses calls."""

    CIRCUIT_HALF_OPEN = "circuit_half_open"
    """The circuit breaker lets a few calls through, to test whether the service works again."""

    CIRCUIT_CLOSED = "circuit_closed"
    """The service works again, and its circuit breaker lets all calls through."""

    REPLICA_EJECTED = "replica_ejected"
    """A replica gets no calls for a while, because it fails or is far slower than its peers."""

    EJECTION_PROBED = "ejection_probed"
    """A replica that got no calls gets one, to test whether it works again."""

    EJECTION_ENDED = "ejection_ended"
    """A replica that got no calls works again; or all replicas get calls, because too many would get none."""

    BALANCER_CHANGED = "balancer_changed"
    """Another load balancer is used from now on."""

    BALANCER_FENCED = "balancer_fenced"
    """The load balancer failed, so replicas take turns."""

    BALANCING_ENABLED = "balancing_enabled"
    """The default load balancer is used, because there is more than one replica now."""
