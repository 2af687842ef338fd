"""Strategies with worker threads: one, a fixed number, or a pool that grows under load."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import attrs

from sage_deploy_threading.workers import DEFAULT_MOST, Workers, join_all
from sage_plugins.values import RunnerStats

if TYPE_CHECKING:
    from sage_plugins.interfaces import Seat

__all__ = ["Multi", "Pool", "PoolOptions", "Single", "ThreadOptions", "pool_size"]


@attrs.frozen
class ThreadOptions:
    """
    `options: {single: {...}}` and `options: {multi: {...}}`.

    Attributes:
        idle_timeout: Seconds without work after which a thread ends; the next call starts one. Null: threads never end.
    """

    idle_timeout: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.gt(0)), metadata={"unit": "seconds"}
    )


@attrs.frozen
class PoolOptions:
    """
    `options: {pool: {...}}`.

    Attributes:
        idle_timeout: Seconds without work after which a thread ends; the next call starts one. Null: threads never end.
    """

    idle_timeout: float | None = attrs.field(
        default=cast("float | None", 60.0),
        validator=attrs.validators.optional(attrs.validators.gt(0)),
        metadata={"unit": "seconds"},
    )


def pool_size(threads: int, max_threads: int | None) -> int:
    """Return the maximum of a pool: *max_threads* if set, else *threads* if more than one, else min(32, cores + 4)."""
    if max_threads is not None:
        return max_threads
    return threads if threads > 1 else DEFAULT_MOST


class Single:
    """Starts one worker, for services that are not thread-safe."""

    def __init__(self, options: ThreadOptions) -> None:
        self._options = options

    def start(self, seat: Seat) -> _PoolRunner:
        """Start the worker. It builds the instance, and runs the hooks and all calls."""
        return _PoolRunner(seat, 1, 1, self._options.idle_timeout)


class Multi:
    """Starts exactly `thread_count` workers."""

    def __init__(self, options: ThreadOptions) -> None:
        self._options = options

    def start(self, seat: Seat) -> _PoolRunner:
        """Start the workers. One of them builds the instance and runs the hooks."""
        threads = seat.limits.threads
        return _PoolRunner(seat, threads, threads, self._options.idle_timeout)


class Pool:
    """Starts `thread_count` workers, and more under load, up to `thread_pool_size`."""

    def __init__(self, options: PoolOptions) -> None:
        self._options = options

    def start(self, seat: Seat) -> _PoolRunner:
        """Start the first workers. One of them builds the instance and runs the hooks."""
        size = pool_size(seat.limits.threads, seat.limits.max_threads)
        return _PoolRunner(seat, min(seat.limits.threads, size), size, self._options.idle_timeout)


class _PoolRunner:
    run_here = None

    def __init__(self, seat: Seat, first: int, size: int, idle_timeout: float | None) -> None:
        self.slots = size
        self._seat = seat
        self._workers = Workers(seat, first=first, most=size, idle_timeout=idle_timeout)

    def stats(self) -> RunnerStats:
        return RunnerStats(threads=self._workers.alive())

    def stop(self, grace: float) -> int:
        return join_all(self._workers.end(self._seat.end_worker), grace)
