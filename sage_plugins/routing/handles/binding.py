"""Composes the functions of a handle that is bound to a service: `call`, `submit`, and those that make calls."""

from __future__ import annotations

import sys
from contextvars import copy_context
from math import inf
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from sage_plugins.call.call import Call
from sage_plugins.call.current import CURRENT
from sage_plugins.call.deadlock import note, went_on
from sage_plugins.call.event_loops import quickest_running_loop
from sage_plugins.call.lazy_future import WONDERS_AFTER_S, closed_lock
from sage_plugins.errors import CallError, MethodNotFoundError, ServiceStoppedError
from sage_plugins.routing.handles.options import no_effect
from sage_plugins.service.methods import LIFECYCLE_HOOKS
from sage_plugins.values import GENERATORS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sage_plugins.call.owner import CallOwner
    from sage_plugins.call.stream import StreamCall
    from sage_plugins.routing.handles.handle import ServiceHandle
    from sage_plugins.routing.router import Router
    from sage_plugins.values import CallOptions, MethodPlan

__all__ = [
    "REBINDING_ERRORS",
    "UNSET",
    "Binding",
    "Bound",
    "Caller",
    "compose",
    "look_what_is_lost",
    "not_served",
    "run_here",
]

#: In place of a timeout: each method has its timeout from the configuration.
UNSET: Final[Any] = object()

#: Errors that a bound handle may get because its service was deployed again, with a new router and new methods.
REBINDING_ERRORS: Final = (ServiceStoppedError, MethodNotFoundError)

#: Frames of the stack that a call to another process takes at most, with some to spare; and the depth up to which a
#: stack certainly has them, even if as many C functions are on it.
_FRAMES_OF_A_CALL: Final = 60
_FEW_FRAMES: Final = 200

_Made = TypeVar("_Made", bound=Call)


class Binding:
    """
    What the handles of one deployed service share.

    Attributes:
        router: Accepts the calls.
        methods: The served methods by name.
        queue_timeout: Seconds that a call may wait for its start, None for no limit.
        runs_here: Whether calls run in the calling thread.
        caller_reads: Whether replicas are in other processes, and a waiting caller reads their replies itself.
        seconds_to_start: Returns the extra seconds for a call that start hooks make to this service while it starts.
    """

    __slots__ = ("caller_reads", "methods", "queue_timeout", "router", "runs_here", "seconds_to_start")

    def __init__(  # noqa: PLR0913 - only stores its arguments
        self,
        router: Router,
        methods: tuple[MethodPlan, ...],
        *,
        queue_timeout: float | None,
        runs_here: bool,
        caller_reads: bool = False,
        seconds_to_start: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.router = router
        self.methods: Mapping[str, MethodPlan] = {method.name: method for method in methods}
        self.queue_timeout = queue_timeout
        self.runs_here = runs_here
        self.caller_reads = caller_reads
        self.seconds_to_start = seconds_to_start


class Bound(NamedTuple):
    """
    The parts of a bound handle; one object, so that no thread sees parts of two bindings.

    Attributes:
        binding: What it is bound to.
        make: Makes a call, without sending it.
        make_stream: Makes the call of a stream, without sending it.
        call: `ServiceHandle.call`.
        submit: `ServiceHandle.submit`.
    """

    binding: Binding
    make: Callable[[str, tuple[Any, ...], dict[str, Any]], Call]
    make_stream: Callable[[str, tuple[Any, ...], dict[str, Any]], StreamCall]
    call: Callable[..., Any]
    submit: Callable[..., Call]


class Caller(NamedTuple):
    """
    What `compose` needs to know of a handle.

    Attributes:
        service: Its name.
        options: For all calls of the handle.
        timeout: Seconds from call to answer for all methods; None for no limit, `UNSET` for each method's own.
        latest: `expires` and `deadline` of the call that the handle repeats; None for new calls.
        rebound: If the service was deployed again, returns the handle with which to repeat the call; else raises the
            error.
        moved: The same for a call that was refused while it waited for room.
        blocks: Called if a call blocks a running event loop, with the method's name.
    """

    service: str
    options: CallOptions
    timeout: Any
    latest: tuple[float, float] | None
    rebound: Callable[[Router, CallError], ServiceHandle]
    moved: Callable[[Call, ServiceStoppedError], ServiceHandle]
    blocks: Callable[[str], None]


def compose(binding: Binding, caller: Caller) -> Bound:  # noqa: C901, PLR0915 - closures over what does not change
    """
    Compose the functions of a handle that is bound to *binding*.

    Raises:
        ConfigError: The handle's calls have a priority, but the service does not use priorities.
    """
    router, rebound, moved, blocks = binding.router, caller.rebound, caller.moved, caller.blocks
    if caller.options.priority and not router.minds_priority:
        raise no_effect(caller.service, caller.options.priority)
    make, make_stream = _compose_make(binding, caller)
    if binding.caller_reads:
        make, make_stream = _with_room(make), _with_room(make_stream)
    running_loop = quickest_running_loop()

    def call_here(method: str, /, *args: Any, **kwargs: Any) -> Any:
        if running_loop() is not None:
            blocks(method)
        try:
            made = make(method, args, kwargs)
            if made.outer is None:
                router.route(made)
            else:
                route_inside(made)
        except REBINDING_ERRORS as error:
            handle = rebound(router, error)
        except BaseException as error:
            look_what_is_lost(router, error)
            raise
        else:
            try:
                return made.wait_alone()
            except ServiceStoppedError as error:
                handle = moved(made, error)
            except BaseException:
                made.caller_left = True
                if not made.over():
                    router.suspect()
                raise
        return handle.call(method, *args, **kwargs)

    def call(method: str, /, *args: Any, **kwargs: Any) -> Any:
        if running_loop() is not None:
            blocks(method)
        try:
            made = make(method, args, kwargs)
            # Make the latch before sending and do nothing between sending and waiting: if the worker wakes while this
            # thread still holds the GIL, the worker sleeps once more.
            latch = made._latch = closed_lock()  # noqa: SLF001 - nobody else has the call yet
            # The first wait is short. `wait_alone` then reports a call that does not start as perhaps lost.
            longest = made.expires - made.since
            if not 0 < longest < WONDERS_AFTER_S:
                longest = 0 if longest <= 0 else WONDERS_AFTER_S
            router.route(made)
        except REBINDING_ERRORS as error:
            handle = rebound(router, error)
        except BaseException as error:
            look_what_is_lost(router, error)
            raise
        else:
            try:
                if made.outer is not None:
                    return made.wait_inside()
                try:
                    latch.acquire(timeout=longest)
                except BaseException:  # KeyboardInterrupt while waiting: the caller is gone
                    made.interrupted()
                    raise
                return made.wait_alone()
            except ServiceStoppedError as error:
                handle = moved(made, error)
        return handle.call(method, *args, **kwargs)

    def call_reading(method: str, /, *args: Any, **kwargs: Any) -> Any:
        if running_loop() is not None:
            blocks(method)
        try:
            made = make(method, args, kwargs)
            if made.outer is None:  # a nested call leaves reading to others
                made.reader_thread = get_ident()
            else:
                made.waits = True
            router.route(made)
        except REBINDING_ERRORS as error:
            handle = rebound(router, error)
        except BaseException as error:
            look_what_is_lost(router, error)
            raise
        else:
            try:
                if made.outer is not None:
                    return made.wait_inside()
                made.hold_reading()
                return made.wait_alone()
            except ServiceStoppedError as error:
                handle = moved(made, error)
        return handle.call(method, *args, **kwargs)

    def submit(method: str, /, *args: Any, **kwargs: Any) -> Call:
        try:
            made = make(method, args, kwargs)
            accepted = router.route(made)
        except REBINDING_ERRORS as error:
            handle = rebound(router, error)
        except BaseException as error:
            look_what_is_lost(router, error)
            raise
        else:
            if accepted:
                return made
            try:
                wait_for_room(made)
            except ServiceStoppedError as error:
                handle = moved(made, error)
            else:
                return made
        return handle.submit(method, *args, **kwargs)

    def wait_for_room(made: Call) -> None:
        if running_loop() is not None:
            try:
                blocks(made.method.name)
            except BaseException:  # the warning was turned into an error: the caller gets no call
                made.interrupted()
                raise
        made.wait_admitted()

    def submit_here(method: str, /, *args: Any, **kwargs: Any) -> Call:
        try:
            made = make(method, args, kwargs)
            if made.outer is None:
                router.route(made)
                try:
                    if not made.over():  # it waits for a slot, and then runs in this thread
                        made.hold()
                except BaseException:
                    made.caller_left = True
                    raise
            else:
                route_inside(made)
        except REBINDING_ERRORS as error:
            handle = rebound(router, error)
        except BaseException as error:
            look_what_is_lost(router, error)
            raise
        else:
            raised = made.exception_now()
            if raised is not None:
                from sage_plugins.call.endings import raised_by_signal

                if raised_by_signal(raised):  # a signal handler of this thread raised it, not the method
                    raise raised
            if not (isinstance(raised, ServiceStoppedError) and made.was_turned_away()):
                return made
            handle = moved(made, raised)
        return handle.submit(method, *args, **kwargs)

    def route_inside(made: Call) -> None:
        """Route a nested call, which runs in this thread, and note that the outer method waits for it."""
        waiter = made.outer
        assert waiter is not None  # noqa: S101 - for the type checker
        try:
            note(made, waiter)
            router.route(made)
            if not made.over():
                made.hold_inside()
        except BaseException:
            made.caller_left = True
            raise
        finally:
            went_on(waiter)

    return Bound(
        binding,
        make,
        make_stream,
        call_here if binding.runs_here else call_reading if binding.caller_reads else call,
        submit_here if binding.runs_here else submit,
    )


def _compose_make(  # noqa: C901 - a function for each check would cost every call
    binding: Binding, caller: Caller
) -> tuple[Callable[..., Call], Callable[..., StreamCall]]:
    """Return the functions that make a handle's calls and the calls of its streams."""
    router, options, service, methods = binding.router, caller.options, caller.service, binding.methods
    monotonic = router.clock.monotonic
    fixed = inf if caller.timeout is None else caller.timeout
    timed = {plan.name: (plan, plan.timeout if fixed is UNSET else fixed) for plan in methods.values()}
    entries = {name: entry for name, entry in timed.items() if entry[0].kind not in GENERATORS}
    current, queue_timeout = CURRENT.get, binding.queue_timeout

    def make(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:  # noqa: C901 - a function for each check would cost every call
        try:
            plan, timeout = entries[method]
        except KeyError:
            raise _refused(service, method, methods) from None
        for each in args:
            if issubclass(type(each), Call):  # `isinstance` would ask a proxy
                raise _no_argument(service, method, each)
        if kwargs:
            for each in kwargs.values():
                if issubclass(type(each), Call):
                    raise _no_argument(service, method, each)
        now = monotonic()
        expires = deadline = now + timeout
        around = current()
        outer = None if around is None or around.has_ended() else around
        if outer is not None and outer.deadline < deadline:
            expires = deadline = outer.deadline
        if queue_timeout is not None and now + queue_timeout < expires:
            expires = now + queue_timeout
        made = Call(router, plan, args, kwargs, options, now, deadline, expires, copy_context())
        if outer is not None:
            _note_inner(outer, made)
            if outer.prepares:
                _postpone(made, binding)
        return made

    def make_stream(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamCall:
        plan, timeout = timed.get(method, (None, 0.0))
        if plan is None or plan.kind not in GENERATORS:
            raise _refused(service, method, methods)
        for each in (*args, *kwargs.values()):
            if issubclass(type(each), Call):
                raise _no_argument(service, method, each)
        from sage_plugins.call.stream import StreamCall

        now = monotonic()
        around = current()
        outer = None if around is None or around.has_ended() else around
        deadline = inf if outer is None else outer.deadline
        expires = min(now + (timeout if queue_timeout is None else min(timeout, queue_timeout)), deadline)
        fields = (router, plan, args, kwargs, options, now, deadline, expires, copy_context())
        made = StreamCall(*fields, item_timeout=timeout)
        if outer is not None:
            _note_inner(outer, made)
            if outer.prepares:
                made.item_timeout += _postpone(made, binding)
        return made

    if caller.latest is not None:
        return _not_after(caller.latest, make), _not_after(caller.latest, make_stream)
    return make, make_stream


def _with_room(make: Callable[..., _Made]) -> Callable[..., _Made]:
    """
    Wrap *make* for a thread that then sends and reads, also for other callers: it must not stop halfway.

    The call raises RecursionError before it begins, if the thread's stack has too little room left.
    """

    def made(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Made:
        try:
            sys._getframe(_FEW_FRAMES)  # noqa: SLF001 - the quickest way to see that most stacks are not deep
        except ValueError:
            pass
        else:
            _descend(_FRAMES_OF_A_CALL)
        return make(method, args, kwargs)

    return made


def _descend(frames: int) -> None:
    if frames:
        _descend(frames - 1)


def _note_inner(outer: Call, made: Call) -> None:
    made.outer = outer
    inner = outer.inner
    if inner is None:
        inner = outer.inner = WeakValueDictionary()  # weak, so that it keeps no argument or result alive
    inner[id(made)] = made


def _postpone(made: Call, binding: Binding) -> float:
    """Extend the limits of a call made by start hooks by the seconds that its service needs to start; return them."""
    seconds = binding.seconds_to_start()
    made.deadline += seconds
    made.expires += seconds
    return seconds


def _not_after(latest: tuple[float, float], make: Callable[..., _Made]) -> Callable[..., _Made]:
    """Wrap *make* for a repeated call, whose time has been running since the first attempt."""
    expires, deadline = latest

    def made_again(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Made:
        made = make(method, args, kwargs)
        made.expires, made.deadline = min(made.expires, expires), min(made.deadline, deadline)
        return made

    return made_again


def _refused(service: str, method: str, methods: Mapping[str, MethodPlan]) -> Exception:
    """Return the error that says why *method* cannot be called in this way."""
    if method not in methods:
        return not_served(service, method, methods)
    if methods[method].kind in GENERATORS:
        msg = f"{service}.{method} is a generator method: read it with stream() or astream()"
    else:
        msg = f"{service}.{method} is no generator method: it gives one answer, to call() or acall()"
    return TypeError(msg)


def _no_argument(service: str, method: str, given: Call) -> TypeError:
    """Return the error for a call that was given a `Call` as an argument."""
    return TypeError(
        f"{service}.{method} was given a Call of {given.method.name!r} as an argument, not what it answers: give "
        "`call.result()`, or `await call` in a coroutine"
    )


def not_served(service: str, method: str, served: Mapping[str, Any]) -> MethodNotFoundError:
    """Return the error for a *method* that is not among those *served*, with the reason."""
    if method in LIFECYCLE_HOOKS:
        why = "it is a life-cycle hook, which only the deployment calls"
    elif isinstance(method, str) and method.startswith("_"):
        why = "names with an underscore are private"
    else:
        from sage_plugins.texts import did_you_mean

        near = did_you_mean(str(method), served)
        names = f"its methods are {', '.join(served)}" if served else "it has no public methods"
        why = f"did you mean {near!r}?" if near else names
    msg = f"service {service!r} serves no method {method!r}: {why}"
    return MethodNotFoundError(msg, service=service, method=str(method))


def look_what_is_lost(router: CallOwner, error: BaseException) -> None:
    """Tell *router* that *error*, raised while it routed a call, may have lost something; a CallError loses nothing."""
    if not isinstance(error, CallError):
        router.suspect()


def run_here(call: Call, router: Router) -> None:
    """Give *call* to *router* and run it in this thread once it has a slot."""
    if call.over():  # cancelled before this thread began
        return
    try:
        router.route(call)
        if not call.over():
            call.hold()
    except Exception as error:  # noqa: BLE001 - the call was refused, and the awaiting task must learn that
        if call.turned_away is error:
            call.publish(None, error)
        else:
            call.refuse(error)
