"""What callers hold: the verbs of a call, each the shortest way to the router."""

from __future__ import annotations

from contextvars import copy_context
from math import inf
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from sage_plugins.call.call import CURRENT, MAX_WAIT_S, Call, closed_lock
from sage_plugins.call.deadlock import note, went_on
from sage_plugins.errors import CallError, ConfigError, MethodNotFoundError, ServiceStoppedError
from sage_plugins.service.methods import LIFECYCLE_HOOKS
from sage_plugins.values import GENERATORS, CallOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from sage_plugins.call.owner import CallOwner
    from sage_plugins.call.stream import StreamCall
    from sage_plugins.call.stream_reader import AsyncServiceStream, ServiceStream
    from sage_plugins.routing.router import Router
    from sage_plugins.values import MethodPlan

__all__ = ["Binding", "ServiceHandle"]

_UNSET: Final[Any] = object()
#: The longest time-out that is no typing error, as in the configuration: some 30 years.
_LONGEST_S: Final = 1e9

#: What a bound handle may come to because its service was deployed anew since: that has a new router and new methods.
_ANEW: Final = (ServiceStoppedError, MethodNotFoundError)

_Made = TypeVar("_Made", bound=Call)


class Binding:
    """
    What the handles of one deployed service share.

    Attributes:
        router: Accepts the calls.
        methods: The served methods by name.
        queue_timeout: Seconds that a call may wait for its start, None for no limit.
        runs_here: Whether calls run in the calling thread.
        driven: Whether replicas are in other processes, and a waiting caller reads what comes from there.
    """

    __slots__ = ("driven", "methods", "queue_timeout", "router", "runs_here")

    def __init__(
        self,
        router: Router,
        methods: tuple[MethodPlan, ...],
        *,
        queue_timeout: float | None,
        runs_here: bool,
        driven: bool = False,
    ) -> None:
        self.router = router
        self.methods: Mapping[str, MethodPlan] = {method.name: method for method in methods}
        self.queue_timeout = queue_timeout
        self.runs_here = runs_here
        self.driven = driven


class _Bound(NamedTuple):
    """What a handle has once it is bound; one object, so that no thread ever sees parts of two."""

    binding: Binding
    make: Callable[[str, tuple[Any, ...], dict[str, Any]], Call]
    make_stream: Callable[[str, tuple[Any, ...], dict[str, Any]], StreamCall]


class ServiceHandle:
    """
    Calls one service; made by `Environment.service`.

    `handle.get("k")` is `handle.call("get", "k")` for every served method whose name the handle does not use itself. A
    handle stays valid while replicas come and go, and is safe from any thread and event loop. Making one starts
    nothing: the first call deploys the service if that has not happened.
    """

    def __init__(
        self,
        name: str,
        bind: Callable[[], Binding],
        *,
        options: CallOptions | None = None,
        timeout: Any = _UNSET,
        travels: Callable[[], tuple[Callable[..., ServiceHandle], tuple[Any, ...]]] | None = None,
    ) -> None:
        """
        Make a handle.

        Args:
            name: Name of the service.
            bind: Gives the service's binding, deploying it if need be.
            options: For all calls of this handle.
            timeout: Seconds from call to answer for all methods; None for no limit, unset for what the configuration
                says.
            travels: Gives what its pickle consists of: a function that makes a handle again, and its first arguments;
                the last is a mapping of what `with_options` was given. Raises CallError if the service cannot be called
                from elsewhere. None if the handle belongs to this process.
        """
        self._name = name
        self._bind = bind
        self._travels = travels
        self._options = options or CallOptions()
        self._timeout = timeout
        self._bound: _Bound | None = None
        self._latest: tuple[float, float] | None = None  # `expires` and `deadline` of a call that is made once more

    # -- verbs -------------------------------------------------------------------------------------------------------
    #
    # The first call of a handle takes the way below; `_compose` then puts the composed verbs into the instance, where
    # they hide these.

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """
        Call *method* and wait for its result.

        Raises:
            CallTimeoutError: There was no answer within the time-out, the time in the queue included.
            OverloadedError: The queue is full and the service rejects.
            ServiceStoppedError: The service is draining or has stopped.
            ReplicaDiedError: The replica died while the method ran.
            MethodNotFoundError: The service serves no such method.
            TypeError: The method is a generator, which needs `stream`.
            BaseException: What the method raises, as itself.
        """
        return self._verb("call")(method, *args, **kwargs)

    def submit(self, method: str, /, *args: Any, **kwargs: Any) -> Call:
        """
        Start a call and give its future at once.

        With `overload: block` and a full queue it holds the caller until there is room. Under `inline` the method runs
        before this returns.

        Raises:
            CallTimeoutError: There was no room within the time-out.
            OverloadedError, ServiceStoppedError, MethodNotFoundError, TypeError: As for `call`.
        """
        call: Call = self._verb("submit")(method, *args, **kwargs)
        return call

    def start(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """
        Like `submit`, but never waits for room: with a full queue the call is on its way before there is any.

        Under `inline` the method runs before this returns, as with `submit`.
        """
        binding, make, _ = self._compose()
        try:
            call = make(method, args, kwargs)
            binding.router.route(call)
        except _ANEW as error:
            return self._bound_anew(binding.router, error).start(method, args, kwargs)
        if binding.runs_here and not call.over():
            call.hold()
        return call

    def stream(self, method: str, /, *args: Any, **kwargs: Any) -> ServiceStream:
        """
        The items of a generator method, as an iterator.

        The generator runs in the replica, at most `stream.AHEAD` items ahead, and holds its slot until it ends. The
        time-out bounds each wait for an item, the first one's from the call on. `close()`, leaving a `with` block or
        dropping the stream ends the generator.

        Raises:
            TypeError: The method is no generator, which needs `call`.
            CallTimeoutError, OverloadedError, ServiceStoppedError, MethodNotFoundError: As for `submit`.
        """
        from sage_plugins.call.stream_reader import ServiceStream

        return ServiceStream(
            self._start_stream(method, args, kwargs),
            lambda call, error: self._moved(call, error)._start_stream(method, args, kwargs),  # noqa: SLF001 - as self
        )

    def _start_stream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamCall:
        binding, _, make = self._compose()
        try:
            call = make(method, args, kwargs)
        except MethodNotFoundError as error:
            return self._bound_anew(binding.router, error)._start_stream(method, args, kwargs)  # noqa: SLF001 - self
        if binding.runs_here:
            from sage_plugins.call import aio

            # Producer and consumer take turns, so they cannot share a thread.
            aio.start_thread(lambda: _run_here(call, binding.router), name=f"{self._name}-stream")
            return call
        try:
            accepted = binding.router.route(call)
        except ServiceStoppedError as error:
            return self._bound_anew(binding.router, error)._start_stream(method, args, kwargs)  # noqa: SLF001 - self
        if not accepted:
            try:
                call.wait_admitted()
            except ServiceStoppedError as error:
                return self._moved(call, error)._start_stream(method, args, kwargs)  # noqa: SLF001 - as self
        return call

    def astream(self, method: str, /, *args: Any, **kwargs: Any) -> AsyncServiceStream:
        """
        Like `stream`, for coroutines: an asynchronous iterator, which makes the call when its first item is asked for.
        """
        from sage_plugins.call.stream_reader import AsyncServiceStream

        async def again(call: StreamCall, error: ServiceStoppedError) -> StreamCall:
            moved = await self._amoved(call, error)
            return await moved._astart_stream(method, args, kwargs)  # noqa: SLF001 - as self

        return AsyncServiceStream(lambda: self._astart_stream(method, args, kwargs), again)

    async def _astart_stream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamCall:
        from sage_plugins.call import aio

        bound = self._bound
        if bound is None:  # deploying waits, and the loop must not
            bound = await aio.in_thread(self._compose, name=f"{self._name}-bind")
        binding, _, make = bound
        try:
            call = make(method, args, kwargs)
        except MethodNotFoundError as error:
            await self._abound_anew(binding.router, error)
            return await self._astart_stream(method, args, kwargs)
        if binding.runs_here:
            aio.start_thread(lambda: _run_here(call, binding.router), name=f"{self._name}-stream")
            return call
        try:
            binding.router.route(call)
        except ServiceStoppedError as error:
            await self._abound_anew(binding.router, error)
            return await self._astart_stream(method, args, kwargs)
        return call

    async def acall(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """
        Call *method* from a coroutine; raises what `call` raises.

        Works from any running event loop. With a full queue under `overload: block` it suspends. Cancelling the
        awaiting task cancels the call: one that has not started never will; a coroutine is cancelled; any other method
        that runs is abandoned.
        """
        from sage_plugins.call import aio

        bound = self._bound
        if bound is None:  # deploying waits, and the loop must not
            bound = await aio.in_thread(self._compose, name=f"{self._name}-bind")
        binding, make, _ = bound
        try:
            call = make(method, args, kwargs)
        except MethodNotFoundError as error:
            await self._abound_anew(binding.router, error)
            return await self.acall(method, *args, **kwargs)
        if binding.runs_here:
            aio.start_thread(lambda: _run_here(call, binding.router), name=f"{self._name}-acall")
        else:
            try:
                binding.router.route(call)
            except ServiceStoppedError as error:
                await self._abound_anew(binding.router, error)
                return await self.acall(method, *args, **kwargs)
        try:
            return await aio.outcome(call)
        except ServiceStoppedError as error:
            moved = await self._amoved(call, error)
            return await moved.acall(method, *args, **kwargs)

    def with_options(
        self, *, timeout: float | None = _UNSET, key: Hashable | None = _UNSET, idempotent: bool | None = _UNSET
    ) -> ServiceHandle:
        """
        A second handle to the same service, with other options for its calls.

        Args:
            timeout: Seconds from call to answer, None for no limit.
            key: Key for balancers that send equal keys to the same replica.
            idempotent: Whether these calls may run twice, whatever the method declares.

        Raises:
            ConfigError: *timeout* is no number of seconds.
            InvalidKeyError: *key* is not hashable. Balancers may ask for more: then the call itself raises it.
        """
        if timeout is not _UNSET and timeout is not None:
            if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= _LONGEST_S:
                msg = f"timeout: must be a number of seconds above 0, or None for no limit, got {timeout!r:.50}"
                raise ConfigError(msg)
            timeout = float(timeout)
        try:
            hash(key)
        except TypeError:
            from sage_plugins.service.call_key import unhashable

            raise unhashable(key, f"service '{self._name}'", service=self._name) from None
        options = CallOptions(
            key=self._options.key if key is _UNSET else key,
            idempotent=self._options.idempotent if idempotent is _UNSET else idempotent,
        )
        return self._again(options, self._timeout if timeout is _UNSET else timeout)

    def _again(self, options: CallOptions, timeout: Any) -> ServiceHandle:
        """A second handle to the same service."""
        return ServiceHandle(self._name, self._bind, options=options, timeout=timeout, travels=self._travels)

    # -- finding the way ---------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The served method *name* as a callable; looked up when it is called."""
        if name.startswith("_"):
            raise AttributeError(name)

        def method(*args: Any, **kwargs: Any) -> Any:
            return self.call(name, *args, **kwargs)

        method.__name__ = name
        method.__qualname__ = f"{self._name}.{name}"
        self.__dict__[name] = method  # so that the next access does not come here
        return method

    def _verb(self, name: str) -> Callable[..., Any]:
        """The composed verb *name*; another thread may take it away between composing it and looking for it."""
        while True:
            self._compose()
            verb: Callable[..., Any] | None = self.__dict__.get(name)
            if verb is not None:
                return verb
            self._bound = None

    def _compose(self) -> _Bound:  # noqa: C901, PLR0915 - closures over what does not change
        """Bind to the service, deploying it if need be, and compose the verbs with all that does not change decided."""
        bound = self._bound
        if bound is not None:
            return bound
        binding = self._bind()
        router = binding.router
        make, make_stream = self._compose_make(binding)

        def call_here(method: str, /, *args: Any, **kwargs: Any) -> Any:
            try:
                made = make(method, args, kwargs)
                if made.outer is None:
                    router.route(made)
                else:
                    route_inside(made)
            except _ANEW as error:
                return self._bound_anew(router, error).call(method, *args, **kwargs)
            try:
                return made.wait_alone()
            except ServiceStoppedError as error:
                return self._moved(made, error).call(method, *args, **kwargs)

        def call(method: str, /, *args: Any, **kwargs: Any) -> Any:
            try:
                made = make(method, args, kwargs)
                # The latch is made before the call is sent, and nothing is done between sending and waiting: the worker
                # wakes up meanwhile, and if this thread still holds the interpreter's lock then, it sleeps once more.
                latch = made._latch = closed_lock()  # noqa: SLF001 - nobody else has the call yet
                longest = made.expires - made.since
                if not 0 < longest < MAX_WAIT_S:
                    longest = 0 if longest <= 0 else -1  # over before it began, or no limit: as a lock spells it
                router.route(made)
            except _ANEW as error:
                return self._bound_anew(router, error).call(method, *args, **kwargs)
            try:
                if made.outer is not None:
                    return made.wait_inside()
                try:
                    latch.acquire(timeout=longest)
                except BaseException:  # KeyboardInterrupt while waiting: the caller is gone
                    made.abandon()
                    raise
                return made.wait_alone()
            except ServiceStoppedError as error:
                return self._moved(made, error).call(method, *args, **kwargs)

        def call_driving(method: str, /, *args: Any, **kwargs: Any) -> Any:
            try:
                made = make(method, args, kwargs)
                if made.outer is None:  # one that waits inside another call leaves reading to others
                    made.driver = get_ident()
                router.route(made)
            except _ANEW as error:
                return self._bound_anew(router, error).call(method, *args, **kwargs)
            try:
                if made.outer is not None:
                    return made.wait_inside()
                made.hold_driving()
                return made.wait_alone()
            except ServiceStoppedError as error:
                return self._moved(made, error).call(method, *args, **kwargs)

        def submit(method: str, /, *args: Any, **kwargs: Any) -> Call:
            try:
                made = make(method, args, kwargs)
                accepted = router.route(made)
            except _ANEW as error:
                return self._bound_anew(router, error).submit(method, *args, **kwargs)
            if not accepted:
                try:
                    made.wait_admitted()
                except ServiceStoppedError as error:
                    return self._moved(made, error).submit(method, *args, **kwargs)
            return made

        def submit_here(method: str, /, *args: Any, **kwargs: Any) -> Call:
            try:
                made = make(method, args, kwargs)
                if made.outer is None:
                    router.route(made)
                    if not made.over():  # it waits for its turn, to run in this thread
                        made.hold()
                else:
                    route_inside(made)
            except _ANEW as error:
                return self._bound_anew(router, error).submit(method, *args, **kwargs)
            if made.was_turned_away():
                stopped = made.exception_now()
                if isinstance(stopped, ServiceStoppedError):
                    return self._moved(made, stopped).submit(method, *args, **kwargs)
            return made

        def route_inside(made: Call) -> None:
            """Route a call that a method makes, which runs in the same thread: the method waits from now on."""
            waiter = made.outer
            assert waiter is not None  # noqa: S101 - for the type checker
            note(made, waiter)
            try:
                router.route(made)
                if not made.over():
                    made.hold_inside()
            finally:
                went_on(waiter)

        self.__dict__["call"] = call_here if binding.runs_here else call_driving if binding.driven else call
        self.__dict__["submit"] = submit_here if binding.runs_here else submit
        bound = self._bound = _Bound(binding, make, make_stream)
        return bound

    def _bound_anew(self, router: CallOwner, error: CallError) -> ServiceHandle:
        """This handle, unbound from *router*, if the service was deployed again since; else raises *error*."""
        if self._bind().router is router:
            raise error
        self._bound = None
        self.__dict__.pop("call", None)
        self.__dict__.pop("submit", None)
        return self

    def _moved(self, call: Call, error: ServiceStoppedError) -> ServiceHandle:
        """
        A handle to make *call* once more, with the time that it has left, if the service was deployed again since.

        Else, and unless it was turned away while it waited for room, raises *error*, with which it ended.
        """
        if not call.was_turned_away():
            raise error
        self._bound_anew(call.owner, error)
        moved = self._again(self._options, self._timeout)
        moved._latest = (call.expires, call.deadline)  # noqa: SLF001 - as self
        return moved

    async def _abound_anew(self, router: Router, error: CallError) -> None:
        """`_bound_anew` for coroutines: the service may be starting, and the loop must not wait for that."""
        from sage_plugins.call import aio

        await aio.in_thread(lambda: self._bound_anew(router, error), name=f"{self._name}-bind")

    async def _amoved(self, call: Call, error: ServiceStoppedError) -> ServiceHandle:
        """`_moved` for coroutines."""
        from sage_plugins.call import aio

        if not call.was_turned_away():
            raise error
        moved: ServiceHandle = await aio.in_thread(lambda: self._moved(call, error), name=f"{self._name}-bind")
        return moved

    def _compose_make(self, binding: Binding) -> tuple[Callable[..., Call], Callable[..., StreamCall]]:
        """What makes the calls of this handle, and of its streams."""
        router, options = binding.router, self._options
        monotonic = router.clock.monotonic
        fixed = inf if self._timeout is None else self._timeout
        timed = {plan.name: (plan, plan.timeout if fixed is _UNSET else fixed) for plan in binding.methods.values()}
        entries = {name: entry for name, entry in timed.items() if entry[0].kind not in GENERATORS}
        refuse, current, queue_timeout = self._refuse, CURRENT.get, binding.queue_timeout

        def make(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
            try:
                plan, timeout = entries[method]
            except KeyError:
                raise refuse(method, binding.methods) from None
            now = monotonic()
            expires = deadline = now + timeout
            outer = current()
            if outer is not None and outer.deadline < deadline:
                expires = deadline = outer.deadline
            if queue_timeout is not None and now + queue_timeout < expires:
                expires = now + queue_timeout
            made = Call(router, plan, args, kwargs, options, now, deadline, expires, copy_context())
            if outer is not None:
                made.outer = outer
            return made

        def make_stream(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamCall:
            plan, timeout = timed.get(method, (None, 0.0))
            if plan is None or plan.kind not in GENERATORS:
                raise refuse(method, binding.methods)
            from sage_plugins.call.stream import StreamCall

            now = monotonic()
            outer = current()
            deadline = inf if outer is None else outer.deadline
            expires = min(now + (timeout if queue_timeout is None else min(timeout, queue_timeout)), deadline)
            fields = (router, plan, args, kwargs, options, now, deadline, expires, copy_context())
            made = StreamCall(*fields, item_timeout=timeout)
            made.outer = outer
            return made

        if self._latest is None:
            return make, make_stream
        return _not_after(self._latest, make), _not_after(self._latest, make_stream)

    def _refuse(self, method: str, methods: Mapping[str, MethodPlan]) -> Exception:
        """Why *method* cannot be called."""
        if method in methods:
            if methods[method].kind in GENERATORS:
                msg = f"{self._name}.{method} is a generator method: read it with stream() or astream()"
            else:
                msg = f"{self._name}.{method} is no generator method: it gives one answer, to call() or acall()"
            return TypeError(msg)
        if method in LIFECYCLE_HOOKS:
            why = "it is a life-cycle hook, which only the deployment calls"
        elif isinstance(method, str) and method.startswith("_"):
            why = "names with an underscore are private"
        else:
            from sage_plugins.texts import did_you_mean

            near = did_you_mean(str(method), methods)
            served = ", ".join(methods) or "none"
            why = f"did you mean {near!r}?" if near else f"its methods are {served}"
        msg = f"service {self._name!r} serves no method {method!r}: {why}"
        return MethodNotFoundError(msg, service=self._name, method=str(method))

    def __repr__(self) -> str:
        """Name of the service."""
        return f"<ServiceHandle {self._name!r}>"

    def __reduce__(self) -> Any:
        """
        In another process, a handle to the same service; in this one, an equal handle.

        Raises:
            CallError: The service cannot be called from other processes.
        """
        if self._travels is None:
            msg = (
                f"the handle to {self._name!r} belongs to this process and cannot be pickled: take one from an "
                "Environment, and give the service a target that other processes reach, such as 'remote_any'"
            )
            raise CallError(msg, service=self._name)
        revive, arguments = self._travels()
        given = {name: value for name, value in self._options._asdict().items() if value is not None}
        if self._timeout is not _UNSET:
            given["timeout"] = self._timeout
        return revive, (*arguments, given)


def _not_after(latest: tuple[float, float], make: Callable[..., _Made]) -> Callable[..., _Made]:
    """*make*, for a call that was made before: its time has been running since."""
    expires, deadline = latest

    def made_again(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Made:
        made = make(method, args, kwargs)
        made.expires, made.deadline = min(made.expires, expires), min(made.deadline, deadline)
        return made

    return made_again


def _run_here(call: Call, router: Router) -> None:
    """Give *call* to *router* and run it in this thread when it is its turn."""
    if call.over():  # cancelled before this thread began
        return
    try:
        router.route(call)
        if not call.over():
            call.hold()
    except Exception as error:  # noqa: BLE001 - it was not accepted, and the awaiting task is to know
        call.refuse(error)
