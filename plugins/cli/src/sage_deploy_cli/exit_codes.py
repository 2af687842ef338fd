"""The exit codes of `sage-deploy`."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """
    The exit codes, the same for all commands.

    Attributes:
        OK: Done.
        FAILED: A service did not start, a call failed, or a check found a failure.
        BAD_INPUT: The command line, a configuration or a plugin is wrong; nothing was started.
        CHANGES: The plan has changes.
        UNHEALTHY: The services are deployed, but not all of them are healthy.
        INTERRUPTED: Ctrl-C, before the command was done.
    """

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    CHANGES = 3
    UNHEALTHY = 4
    INTERRUPTED = 130  # the convention of shells: 128 plus the number of SIGINT
