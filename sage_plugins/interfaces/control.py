"""Questions to a replica apart from its calls. In a module of its own, because every process needs it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["OWN_METRICS", "ControlOp"]

#: Key in the recorders' snapshots of the `Families` that a replica measures itself, such as `ctx.metrics`.
OWN_METRICS: Final = "ctx.metrics"


class ControlOp(StrEnum):
    """Questions to a replica, apart from its calls."""

    CHECK = "check"
    """Call `check_health()` if the class has it. Raises what that raises, or RuntimeError if it returns False."""

    READY = "ready"
    """The same with `check_ready()`."""

    STATS = "stats"
    """
    A mapping.

    `runner`: a RunnerStats. `recorders`: `{monitor id: snapshot}`, and under `OWN_METRICS` what the replica measures
    itself. `pid`: ID of its process. `age`: only if the replica does not answer and these are its last known values:
    seconds since then. `running`: calls and batches that its workers run. `idle`: seconds since a call last ended; None
    if none has.
    """

    COUNTS = "counts"
    """The `recorders` of `STATS`, without `OWN_METRICS`. For replicas in this process only."""

    LOGS = "logs"
    """
    The replica's log lines, a sequence of `service.logs.RemoteLine`. Empty for a replica in this process, whose records
    are here.

    The argument is the number above which lines are wanted, and the level from which on the service logs from now on.
    """

    ERRORS = "errors"
    """The latest error of each type that its methods raised: a sequence of `operations.MethodError`."""

    STACKS = "stacks"
    """The stacks of all threads of its process, as text."""

    GET = "get"
    """The instance's attribute that the argument names."""

    SET = "set"
    """Set an attribute of the instance. The argument is its name and its value."""

    TERMINATE = "terminate"
    """Call `terminate()` if the instance has it."""

    RECONFIGURE = "reconfigure"
    """
    Call `reconfigure(user_config)` where calls run. Raises what that raises.

    The argument is the `user_config`, plain values, and its limit in seconds. If no worker becomes free in that time,
    it raises OverloadedError and does nothing. If the call takes longer, it raises TimeoutError.
    """
