"""The kinds of events. A separate module, because only monitors need them."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["EventKind"]


class EventKind(StrEnum):
    """
    All kinds of an `Event`. Later versions may add kinds, so ignore unknown ones.

    Kinds about retries and hedges are sent once, then at most once a second.
    """

    REPLICA_STARTING = "replica_starting"
    """A replica starts."""

    REPLICA_READY = "replica_ready"
    """A replica became ready, or healthy again."""

    REPLICA_REMARK = "replica_remark"
    """A replica works less well than it could; the reason says how."""

    REPLICA_UNREADY = "replica_unready"
    """A replica asks for no calls now."""

    REPLICA_UNHEALTHY = "replica_unhealthy"
    """A replica fails its health checks."""

    REPLICA_FAILED = "replica_failed"
    """A replica could not be started, or died."""

    REPLICA_KILLED = "replica_killed"
    """A replica was killed because a call overran its deadline; the reason names the method."""

    REPLICA_DRAINING = "replica_draining"
    """A replica gets no new calls and finishes its own."""

    REPLICA_STOPPED = "replica_stopped"
    """A replica has stopped; the reason says how many calls still run."""

    REPLICA_LEFT = "replica_left"
    """A replica continues without this process."""

    REPLACEMENT_DELAYED = "replacement_delayed"
    """A replacement waits for its backoff."""

    REPLACEMENT_REFUSED = "replacement_refused"
    """The target cannot place a replacement now."""

    REPLACEMENT_FAILED = "replacement_failed"
    """A replacement did not become ready."""

    RECYCLING = "recycling"
    """A replica that reached a limit of `recycle` is being replaced; the reason has numbers."""

    RECYCLED = "recycled"
    """A new replica took its place."""

    RECYCLING_FAILED = "recycling_failed"
    """No new replica became ready; the old one stays until a later attempt."""

    CRASH_LOOP = "crash_loop"
    """A replica is not replaced any more: too many starts failed."""

    ADOPTED = "adopted"
    """This process took over replicas of an earlier one."""

    CHANGE_REQUESTED = "change_requested"
    """Somebody outside the process asked for a change; the reason says who, and what."""

    SCALED = "scaled"
    """The number of replicas was changed."""

    SCALING_REFUSED = "scaling_refused"
    """There is no room for the replicas that the autoscaler wants; the number stays."""

    SCALING_FAILED = "scaling_failed"
    """The autoscaler failed, or its decision could not be applied; the number stays."""

    RESTARTED = "restarted"
    """Every replica, or the one in the reason, was replaced."""

    RESTART_FAILED = "restart_failed"
    """A restart failed; the old replicas go on."""

    RECONFIGURED = "reconfigured"
    """The replicas took a changed `user_config` without replacement."""

    ROLL_STARTED = "roll_started"
    """A changed version begins to replace the running one; the reason has the limits."""

    ROLL_PROGRESS = "roll_progress"
    """A replica of the changed version replaced another."""

    ROLL_DONE = "roll_done"
    """Every replica is of the changed version."""

    ROLLED_BACK = "rolled_back"
    """The changed version did not become ready; the earlier one is restored."""

    ROLL_STOPPED = "roll_stopped"
    """The changed version did not become ready; replicas of both versions may run."""

    OVERLOADED = "overloaded"
    """Calls are refused because they could not be answered in time; sent again only after 10 s without refusals."""

    RETRIED = "retried"
    """A call is retried."""

    RETRY_REFUSED = "retry_refused"
    """A retryable call is not retried."""

    HEDGED = "hedged"
    """An unanswered call gets a second attempt on another replica."""

    HEDGE_REFUSED = "hedge_refused"
    """A call gets no second attempt: the budget is used up."""

    CIRCUIT_OPENED = "circuit_opened"
    """The service failed too often; its circuit breaker refuses calls."""

    CIRCUIT_HALF_OPEN = "circuit_half_open"
    """The circuit breaker lets a few calls through as a test."""

    CIRCUIT_CLOSED = "circuit_closed"
    """The service works again; all calls go through."""

    REPLICA_EJECTED = "replica_ejected"
    """A failing or far slower replica gets no calls for a while."""

    EJECTION_PROBED = "ejection_probed"
    """An ejected replica gets one call as a test."""

    EJECTION_ENDED = "ejection_ended"
    """An ejected replica works again; or all replicas get calls, because too many would get none."""

    BALANCER_CHANGED = "balancer_changed"
    """Another load balancer is used."""

    BALANCER_FENCED = "balancer_fenced"
    """The load balancer failed; replicas take turns."""

    BALANCING_ENABLED = "balancing_enabled"
    """The default load balancer is used, because there are several replicas now."""
