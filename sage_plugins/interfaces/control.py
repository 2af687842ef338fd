"""The control operations of a replica. A separate module, because every process needs it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["OWN_METRICS", "ControlOp"]

#: Key in the recorders' snapshots under which a replica puts the `Families` that it measures itself.
OWN_METRICS: Final = "ctx.metrics"


class ControlOp(StrEnum):
    """What the core can ask of a replica, apart from calls; see `Replica.control`."""

    CHECK = "check"
    """Call `check_health()` if the class has it. Raises what it raises, and RuntimeError if it returns False."""

    READY = "ready"
    """As `CHECK`, with `check_ready()`."""

    STATS = "stats"
    """
    Return the replica's statistics as a mapping.

    `runner`: a RunnerStats. `recorders`: `{monitor id: snapshot}`, and under `OWN_METRICS` what the replica measures
    itself. `pid`: ID of its process. `running`: number of calls and batches that its workers run. `idle`: seconds since
    a call last ended; None if none has. `age`: only if the replica does not answer: seconds since these last known
    values were read.
    """

    COUNTS = "counts"
    """Return the `recorders` of `STATS`, without `OWN_METRICS`. Only for replicas in this process."""

    LOGS = "logs"
    """
    Return the replica's log lines, as a sequence of `service.logs.RemoteLine`.

    Empty for a replica in this process, because its log records are already here. The argument is a pair: the number
    above which lines are wanted, and the lowest level that the service logs from now on.
    """

    ERRORS = "errors"
    """Return the latest error of each type that its methods raised, as a sequence of `operations.MethodError`."""

    STACKS = "stacks"
    """Return the stacks of all threads of its process, as text."""

    GET = "get"
    """Return an attribute of the instance. The argument is its name."""

    SET = "set"
    """Set an attribute of the instance. The argument is its name and its value."""

    TERMINATE = "terminate"
    """Call `terminate()` if the instance has it."""

    RECONFIGURE = "reconfigure"
    """
    Call `reconfigure(user_config)` in the threads that run calls. Raises what it raises.

    The argument is the `user_config` (plain values) and a limit in seconds. If no worker becomes free within the limit,
    raises OverloadedError and does nothing. If `reconfigure` takes longer, raises TimeoutError.
    """
