"""What can be asked of a replica beside its calls; by itself, because every process needs it and no protocol."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["OWN_METRICS", "ControlOp"]

#: Under which the recorders' snapshots have the `Families` of what a replica measures of itself, such as `ctx.metrics`.
OWN_METRICS: Final = "ctx.metrics"


class ControlOp(StrEnum):
    """What can be asked of a replica beside its calls."""

    CHECK = "check"
    """Call `check_health()` if the class has it; raises what that raises, or RuntimeError if it returns False."""

    READY = "ready"
    """The same with `check_ready()`."""

    STATS = "stats"
    """
    A mapping: `runner` (RunnerStats), `recorders` ({monitor id: snapshot}, and under `OWN_METRICS` what the replica
    measures of itself), `pid` (of its process) and, if it does not answer and these are those that it gave last, `age`
    (seconds since then). `running` is how many calls and batches
    its workers do, `idle` how many seconds ago a call ended last, None if none has.
    """

    COUNTS = "counts"
    """What `STATS` has as `recorders`, less what the replica measures of itself; asked of replicas in this process."""

    LOGS = "logs"
    """
    What the replica has logged in its process, a sequence of `service.logs.RemoteLine`; empty for one in this process,
    whose records are here. The argument is the number above which lines are wanted, and the level from which on the
    service is to log from now on.
    """

    ERRORS = "errors"
    """The latest error of each type that its methods raised: a sequence of `operations.MethodError`."""

    STACKS = "stacks"
    """A text: the stacks of all threads of its process."""

    GET = "get"
    """The attribute of the instance whose name is the argument."""

    SET = "set"
    """Set an attribute of the instance: the argument is its name and its value."""

    TERMINATE = "terminate"
    """Call `terminate()` if the instance has it."""

    RECONFIGURE = "reconfigure"
    """
    Call `reconfigure(user_config)` where calls run; raises what that raises. The argument is the `user_config`, plain
    values, and the seconds that it may take. If no worker is free in that time it raises OverloadedError and is not
    done; if it takes longer, TimeoutError.
    """
