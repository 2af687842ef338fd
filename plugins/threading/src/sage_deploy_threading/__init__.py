"""Threading strategies `single`, `multi`, `pool`, `async` and `inline`: how a replica runs its calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.hookspecs import hookimpl
from sage_plugins.texts import counted
from sage_plugins.values import Explanation, Registration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_plugins.values import Problem

__all__ = ["sage_register_threading_strategies"]

_THREADS_RUN_ON = Explanation(
    "its caller is released; a method that runs on keeps its thread until it ends, a coroutine is cancelled", "timeout"
)

_SHARED = "methods that compute share one core, under a Python with the global interpreter lock"

_COUNTS = ("thread_count", "max_thread_count", "thread_pool_size")


def _create_single(options: Any) -> Any:
    from sage_deploy_threading.pool import Single  # imported here, as below: keeps discovery cheap

    return Single(options)


def _create_multi(options: Any) -> Any:
    from sage_deploy_threading.pool import Multi

    return Multi(options)


def _create_pool(options: Any) -> Any:
    from sage_deploy_threading.pool import Pool

    return Pool(options)


def _create_async(_options: None) -> Any:
    from sage_deploy_threading.event_loop import EventLoop

    return EventLoop()


def _create_inline(_options: None) -> Any:
    from sage_deploy_threading.inline import Inline

    return Inline()


def _thread_options() -> type:
    from sage_deploy_threading.pool import ThreadOptions

    return ThreadOptions


def _pool_options() -> type:
    from sage_deploy_threading.pool import PoolOptions

    return PoolOptions


def _no_coroutines(config: Any) -> Iterator[Problem]:
    from sage_plugins.values import Problem

    if config.max_concurrency is not None:
        yield Problem(
            "W12",
            "max_concurrency",
            f"has no effect: strategy '{config.threading_strategy}' runs calls on threads",
            "use threading_strategy 'async', or remove it",
            other="threading_strategy",
        )


def _check_one_at_a_time(config: Any, _options: Any) -> Iterator[Problem]:
    from sage_plugins.values import Problem

    for name in _COUNTS:
        count = getattr(config, name)
        if count is not None and count > 1:
            yield Problem(
                "E301",
                name,
                f"is {count}, but strategy '{config.threading_strategy}' runs one call at a time",
                "use threading_strategy 'pool', or remove it",
                other="threading_strategy",
            )
    yield from _no_coroutines(config)


def _check_inline(config: Any, options: Any) -> Iterator[Problem]:
    from sage_plugins.values import Problem

    yield from _check_one_at_a_time(config, options)
    if (config.batch_size or 1) > 1:
        yield Problem(
            "W15",
            "batch_size",
            "has no effect: under 'inline' each call runs through the batch method alone",
            "use threading_strategy 'single', or remove it",
            other="threading_strategy",
        )


def _check_multi(config: Any, _options: Any) -> Iterator[Problem]:
    from sage_plugins.values import Problem

    for name in _COUNTS[1:]:
        size = getattr(config, name)
        if size is not None and size != config.thread_count:
            yield Problem(
                "E305",
                name,
                f"is {size}, but strategy 'multi' has exactly thread_count threads, which is {config.thread_count}",
                "use threading_strategy 'pool', or remove it",
                other="thread_count",
            )
    yield from _no_coroutines(config)


def _check_pool(config: Any, _options: Any) -> Iterator[Problem]:
    from sage_plugins.values import Problem

    size, alias, kept = config.thread_pool_size, config.max_thread_count, config.thread_count
    if size is not None and alias is not None and size != alias:
        yield Problem(
            "E304",
            "max_thread_count",
            f"is {alias} and thread_pool_size is {size}: under 'pool' they are the same thing",
            "give one of them",
            other="thread_pool_size",
        )
    elif size is not None and size < kept:
        yield Problem(
            "E303",
            "thread_pool_size",
            f"is {size}, less than thread_count {kept}",
            "raise it, or lower thread_count",
            other="thread_count",
        )
    elif size is None and alias is not None and alias < kept:
        message = f"is {alias}, less than thread_count {kept}"
        yield Problem("E302", "max_thread_count", message, "raise it, or lower thread_count", other="thread_count")
    yield from _no_coroutines(config)


def _idle_threads(options: Any) -> Iterator[str]:
    if options.idle_timeout is not None:
        yield f"a thread without work for {options.idle_timeout:g} s ends; the next call starts one"


def _explain_single(_config: Any, options: Any) -> Iterator[str | Explanation]:
    same = "always on the same thread" if options.idle_timeout is None else "on one thread"
    yield f"one call at a time, {same}, in the order of arrival"
    yield from _idle_threads(options)
    yield Explanation(
        "its caller is released; a method that runs on keeps the replica busy until it ends, a coroutine is cancelled",
        "timeout",
    )


def _explain_multi(config: Any, options: Any) -> Iterator[str | Explanation]:
    yield Explanation(f"exactly {counted(config.thread_count, 'call')} at once, on as many threads", "enforced")
    yield from _idle_threads(options)
    yield _SHARED
    yield _THREADS_RUN_ON


def _explain_async(config: Any, _options: None) -> Iterator[str | Explanation]:
    most = config.max_concurrency or (config.thread_count if config.thread_count > 1 else 100)
    why = ""
    if config.max_concurrency is None:
        why = " (thread_count)" if config.thread_count > 1 else " (neither max_concurrency nor thread_count is given)"
    yield Explanation(f"up to {most} coroutines at once on one event loop{why}", "enforced")
    yield "constructor and hooks run on the loop; methods that are no coroutines run on helper threads beside it"
    yield Explanation(
        "its caller is released; a coroutine is cancelled, a method on a helper thread runs on until it ends", "timeout"
    )


def _explain_pool(config: Any, options: Any) -> Iterator[str | Explanation]:
    from sage_deploy_threading.pool import pool_size

    size = pool_size(config.thread_count, config.thread_pool_size or config.max_thread_count)
    given = config.thread_pool_size or config.max_thread_count or config.thread_count > 1
    why = "" if given else " (min(32, cores + 4): neither thread_pool_size nor thread_count is given)"
    first = counted(config.thread_count, "thread")
    more = "" if config.thread_count >= size else f"; {first} at first, more under load"
    yield Explanation(f"up to {counted(size, 'call')} at once{why}{more}", "enforced")
    yield from _idle_threads(options)
    yield _SHARED
    yield _THREADS_RUN_ON


def _explain_inline(_config: Any, _options: None) -> Iterator[str | Explanation]:
    yield "the caller's own thread runs the method, one call at a time; the constructor runs on another thread"
    yield Explanation(
        "only the wait for the turn is bounded: a running method cannot release its caller before it ends", "timeout"
    )


@hookimpl
def sage_register_threading_strategies() -> list[Registration]:
    """Offer `single`, `multi`, `pool`, `async` and `inline`."""
    return [
        Registration(
            "single",
            _create_single,
            "One thread per replica: calls run one at a time, in order",
            options=_thread_options,
            check=_check_one_at_a_time,
            explain=_explain_single,
            capabilities=frozenset({"ordered", "one_at_a_time", "releases_at_deadline"}),
        ),
        Registration(
            "multi",
            _create_multi,
            "A fixed number of threads per replica",
            options=_thread_options,
            check=_check_multi,
            explain=_explain_multi,
            capabilities=frozenset({"concurrent", "releases_at_deadline"}),
        ),
        Registration(
            "async",
            _create_async,
            "One event loop per replica: many coroutines at once",
            explain=_explain_async,
            capabilities=frozenset({"concurrent", "event_loop", "releases_at_deadline"}),
        ),
        Registration(
            "pool",
            _create_pool,
            "A pool of threads per replica, growing under load and shrinking when idle",
            options=_pool_options,
            check=_check_pool,
            explain=_explain_pool,
            capabilities=frozenset({"concurrent", "releases_at_deadline"}),
        ),
        Registration(
            "inline",
            _create_inline,
            "The caller's own thread, one call at a time",
            check=_check_inline,
            explain=_explain_inline,
            capabilities=frozenset({"ordered", "one_at_a_time", "in_callers_thread"}),
        ),
    ]
