"""`ServiceHandle`, through which callers call a service: `call`, `submit`, `stream` and the service's own methods."""

from __future__ import annotations

from contextvars import copy_context
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, Never

from sage_plugins.call.current import CALL_LISTENER, CURRENT
from sage_plugins.call.event_loops import holds_up_a_loop, running_loop, warn_of_blocking
from sage_plugins.errors import CallError, ServiceStoppedError
from sage_plugins.routing.handles.attribute_calls import AioMethods, attribute_call, find_method, read_only, served_by
from sage_plugins.routing.handles.binding import REBINDING_ERRORS, UNSET, Caller, compose, look_what_is_lost, run_here
from sage_plugins.routing.handles.options import checked_key, checked_priority, checked_timeout
from sage_plugins.threads import CALLBACKS
from sage_plugins.values import CallOptions, MethodKind

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from sage_plugins.call.call import Call
    from sage_plugins.call.owner import CallOwner
    from sage_plugins.call.stream import StreamCall
    from sage_plugins.call.stream_reader import AsyncServiceStream, ServiceStream
    from sage_plugins.routing.handles.binding import Binding, Bound
    from sage_plugins.routing.router import Router
    from sage_plugins.values import MethodPlan

__all__ = ["ServiceHandle"]


class _Origin(NamedTuple):
    """
    What all handles of a service share; see `ServiceHandle.__init__`.
    """

    bind: Callable[[], Binding]
    travels: Callable[[], tuple[Callable[..., ServiceHandle], tuple[Any, ...]]] | None
    service_class: Callable[[], type | None]
    waits_to_bind: Callable[[], bool]
    methods: Callable[[], Mapping[str, MethodPlan] | None]


class ServiceHandle:
    """
    Calls one service; made by `Environment.service`. Thread-safe, on any event loop.

    Every served method is an attribute, unless the handle has one of that name. The method's kind decides what
    `handle.get("k")` returns: the value (plain method), an awaitable `Call` (`async def`), an iterator (generator) or
    an asynchronous iterator (asynchronous generator). On an event loop, use `handle.aio.get("k")`.

    A handle stays valid while replicas come and go. Making one starts nothing: the first call deploys the service if
    necessary.
    """

    _name: str
    _origin: _Origin
    _options: CallOptions
    _timeout: Any
    _bound: Bound | None
    _latest: tuple[float, float] | None  # `expires` and `deadline` of the call that this handle repeats
    _made_by: ServiceHandle | None  # the handle whose `with_options` made this one
    _warned: bool  # whether it has given the `BlockingCallWarning`

    def __init__(  # noqa: PLR0913 - a user never makes one
        self,
        name: str,
        bind: Callable[[], Binding],
        *,
        options: CallOptions | None = None,
        timeout: Any = UNSET,
        travels: Callable[[], tuple[Callable[..., ServiceHandle], tuple[Any, ...]]] | None = None,
        service_class: Callable[[], type | None] = lambda: None,
        waits_to_bind: Callable[[], bool] = lambda: False,
        methods: Callable[[], Mapping[str, MethodPlan] | None] = lambda: None,
    ) -> None:
        """
        Make a handle.

        Args:
            name: The service's name.
            bind: Returns the service's binding; deploys the service if necessary.
            options: For all calls of this handle.
            timeout: Seconds from call to answer for all methods; None for no limit. Unset: the configuration's.
            travels: Returns what the pickled handle consists of: a function that makes a handle, and its first
                arguments; the last one is a mapping of the options given to `with_options`. Raises CallError if other
                processes cannot call the service. None if the handle cannot leave this process.
            service_class: Returns the service's class, None if this process does not know it; must not wait.
            waits_to_bind: Returns whether *bind* must wait for the service to start; must not wait itself.
            methods: Returns the method plans that are known before the handle is bound; must not wait.
        """
        self._set(
            _name=name,
            _origin=_Origin(bind, travels, service_class, waits_to_bind, methods),
            _options=options or CallOptions(),
            _timeout=timeout,
            _bound=None,
            _latest=None,
            _made_by=None,
            _warned=False,
        )

    def _set(self, **attributes: Any) -> None:
        """Set the handle's own attributes; `__setattr__` refuses all."""
        self.__dict__.update(attributes)

    # -- verbs -------------------------------------------------------------------------------------------------------
    #
    # The first call of a handle uses the methods below. `_compose` then stores faster functions in the instance, which
    # hide these.

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """
        Call *method* and wait for its result.

        Raises:
            CallTimeoutError: There was no answer within the timeout, which includes the wait in the queue.
            OverloadedError: `overload` is not `block`, and the queue is full or the call could not be answered in time.
                Under `shed_oldest` and `priority` also if the waiting call was shed for another.
            NoReplicaError: There is no replica and will be none.
            CircuitOpenError: The circuit breaker is open.
            ServiceStoppedError: The service is draining or has stopped.
            ReplicaDiedError: The replica died while the method ran.
            ReentrantCallError: A service method made the call, and would wait forever.
            InvalidKeyError: The balancer does not accept the key.
            MethodNotFoundError: The service serves no such method.
            TypeError: The method is a generator, which needs `stream`.
            BaseException: The method's own exception.
        """
        return self._verb("call")(method, *args, **kwargs)

    def submit(self, method: str, /, *args: Any, **kwargs: Any) -> Call:
        """
        Start a call and return its future at once.

        With `overload: block` and a full queue, the caller waits for room. Under `inline`, the method runs before this
        returns.

        Raises:
            CallTimeoutError: There was no room within the timeout.
            OverloadedError, ServiceStoppedError, MethodNotFoundError, TypeError: As for `call`.
        """
        call: Call = self._verb("submit")(method, *args, **kwargs)
        return call

    def start(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """
        As `submit`, but never waits for room: if the queue is full, the call is parked.

        Under `inline` the method runs before this returns.
        """
        bound = self._compose()
        binding = bound.binding
        try:
            call = bound.make(method, args, kwargs)
            binding.router.route(call)
        except REBINDING_ERRORS as error:
            handle = self._rebound(binding.router, error)
        except BaseException as error:
            look_what_is_lost(binding.router, error)
            raise
        else:
            if binding.runs_here and not call.over():
                call.hold()
            return call
        return handle.start(method, args, kwargs)

    def stream(self, method: str, /, *args: Any, **kwargs: Any) -> ServiceStream:
        """
        Return the items of a generator method, as an iterator.

        The generator runs in the replica, at most `stream.AHEAD` items ahead, and holds its slot until it ends. The
        timeout limits each wait for an item; for the first it counts from the call. `close()`, leaving a `with` block
        or dropping the stream ends the generator.

        Raises:
            TypeError: The method is not a generator, and needs `call`.
            CallTimeoutError, OverloadedError, ServiceStoppedError, MethodNotFoundError: As for `submit`.
        """
        from sage_plugins.call.stream_reader import ServiceStream

        if running_loop() is not None:
            self._blocks(method)
        return ServiceStream(
            self._start_stream(method, args, kwargs),
            lambda call, error: self._moved(call, error)._start_stream(method, args, kwargs),  # noqa: SLF001 - same class
        )

    def _start_stream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamCall:
        bound = self._compose()
        binding = bound.binding
        try:
            call = bound.make_stream(method, args, kwargs)
            if binding.runs_here:
                from sage_plugins.call import aio

                # Producer and consumer wait for each other, so they cannot share a thread.
                aio.start_thread(lambda: run_here(call, binding.router), name=f"{self._name}-stream")
                return call
            accepted = binding.router.route(call)
        except REBINDING_ERRORS as error:
            handle = self._rebound(binding.router, error)
        else:
            if accepted:
                return call
            try:
                call.wait_admitted()
            except ServiceStoppedError as error:
                handle = self._moved(call, error)
            else:
                return call
        return handle._start_stream(method, args, kwargs)  # noqa: SLF001 - same class

    def astream(self, method: str, /, *args: Any, **kwargs: Any) -> AsyncServiceStream:
        """As `stream`, for coroutines: an asynchronous iterator, which makes the call when it is asked for an item."""
        from sage_plugins.call.stream_reader import AsyncServiceStream

        async def again(call: StreamCall, error: ServiceStoppedError) -> StreamCall:
            moved = await self._amoved(call, error)
            return await moved._astart_stream(method, args, kwargs)  # noqa: SLF001 - same class

        return AsyncServiceStream(lambda: self._astart_stream(method, args, kwargs), again)

    async def _astart_stream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamCall:
        from sage_plugins.call import aio

        bound = self._bound
        if bound is None:  # deploying may block, so it gets a thread
            bound = await aio.in_thread(self._compose, name=f"{self._name}-bind")
        binding = bound.binding
        try:
            call = bound.make_stream(method, args, kwargs)
            _tell_listener(call)
            if binding.runs_here:
                aio.start_thread(lambda: run_here(call, binding.router), name=f"{self._name}-stream")
            else:
                binding.router.route(call)
        except REBINDING_ERRORS as error:
            await self._arebound(binding.router, error)
        else:
            return call
        return await self._astart_stream(method, args, kwargs)

    async def acall(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """
        Call *method* from a coroutine, on any running event loop; raises what `call` raises.

        If the queue is full under `overload: block`, the task waits for room. Cancelling the task cancels the call: a
        waiting call never starts, a running coroutine is cancelled, any other running method is abandoned.
        """
        from sage_plugins.call import aio

        bound = self._bound
        if bound is None:  # deploying may block, so it gets a thread
            bound = await aio.in_thread(self._compose, name=f"{self._name}-bind")
        try:
            call = self._send(bound, method, args, kwargs)
        except REBINDING_ERRORS as error:
            await self._arebound(bound.binding.router, error)
            handle = self
        else:
            try:
                return await aio.outcome(call)
            except ServiceStoppedError as error:
                handle = await self._amoved(call, error)
        return await handle.acall(method, *args, **kwargs)

    def _send(self, bound: Bound, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Make a call and give it to the router; never wait."""
        binding = bound.binding
        call = bound.make(method, args, kwargs)
        _tell_listener(call)
        if binding.runs_here:
            CALLBACKS.run(partial(copy_context().run, run_here, call, binding.router))
            return call
        try:
            binding.router.route(call)
        except BaseException as error:
            look_what_is_lost(binding.router, error)
            raise
        return call

    def _begin(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """As `submit`, for an `async def` method called as an attribute: on an event loop it never waits for room."""
        if running_loop() is None:
            return self.submit(method, *args, **kwargs)
        bound = self._compose()
        try:
            return self._send(bound, method, args, kwargs)
        except REBINDING_ERRORS as error:
            handle = self._rebound(bound.binding.router, error)
        return handle._begin(method, args, kwargs)  # noqa: SLF001 - same class

    @cached_property
    def aio(self) -> AioMethods:
        """
        The service's methods for coroutines: `await handle.aio.get("k")`.

        They never block the event loop. A generator method returns an asynchronous iterator, any other an awaitable.
        """
        return AioMethods(self)

    def with_options(
        self,
        *,
        timeout: float | None = UNSET,
        key: Hashable | None = UNSET,
        idempotent: bool | None = UNSET,
        priority: int = UNSET,
    ) -> ServiceHandle:
        """
        Return a second handle to the same service, with other options for its calls.

        Args:
            timeout: Seconds from call to answer, None for no limit.
            key: Key for balancers that send equal keys to the same replica.
            idempotent: Whether these calls may run twice; overrides the method's declaration.
            priority: Under `overload: priority`, higher ones start first. -1,000,000 to 1,000,000, default 0.

        Raises:
            ConfigError: *timeout* is not a number of seconds, or *priority* is not a whole number in its range. Also if
                *priority* is not 0 and the service has another `overload`; if this handle has made no call yet, the new
                handle's first call raises that.
            InvalidKeyError: *key* is not hashable. A call raises it if the balancer accepts no such key.
        """
        options = CallOptions(
            key=self._options.key if key is UNSET else checked_key(key, self._name),
            idempotent=self._options.idempotent if idempotent is UNSET else idempotent,
            priority=self._options.priority if priority is UNSET else checked_priority(priority),
        )
        again = self._again(options, self._timeout if timeout is UNSET else checked_timeout(timeout))
        bound = self._bound
        if bound is not None:  # so the new handle need not wait for the service, nor use a thread for that
            again._bind_to(bound.binding)  # noqa: SLF001 - same class
        else:
            again._set(_made_by=self)  # noqa: SLF001 - same class
        return again

    def _again(self, options: CallOptions, timeout: Any) -> ServiceHandle:
        return ServiceHandle(self._name, options=options, timeout=timeout, **self._origin._asdict())

    # -- the methods as attributes -----------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """
        Return the served method *name* as a function.

        Raises:
            MethodNotFoundError: The service serves no such method. This is an AttributeError.
        """
        if name.startswith("_"):
            raise AttributeError(name)
        bound = self._bound
        method = attribute_call(self, name, *find_method(self._name, name, *self._known()))
        if bound is not None:  # the next access is then faster; an unbound handle's class may still change
            self.__dict__[name] = method
        return method

    def _known(self) -> tuple[Mapping[str, MethodPlan] | None, type | None]:
        """The method plans and the class, as far as they are known."""
        bound = self._bound
        plans = self._origin.methods() if bound is None else bound.binding.methods
        return plans, self._origin.service_class()

    def _bound_kind(self, name: str) -> MethodKind:
        """Return the kind of the method *name*; binds to the service for that."""
        plan = self._compose().binding.methods.get(name)
        return MethodKind.SYNC if plan is None else plan.kind  # `call` raises the error, or binds to a new deployment

    def _served(self) -> list[str]:
        """Names of the served methods, as far as they are known."""
        return served_by(*self._known())

    def __dir__(self) -> list[str]:
        own = [name for name in dir(type(self)) if not name.startswith("_") or name.startswith("__")]
        return sorted({*own, *self._served()})

    def __setattr__(self, name: str, value: Never) -> Never:
        """Raise AttributeError."""
        raise read_only(f"the handle to '{self._name}'", name)

    def __delattr__(self, name: str) -> Never:
        """Raise AttributeError."""
        raise read_only(f"the handle to '{self._name}'", name)

    # -- binding -----------------------------------------------------------------------------------------------------

    def _verb(self, name: str) -> Callable[..., Any]:
        bound = self._compose()
        verb: Callable[..., Any] = bound.call if name == "call" else bound.submit
        return verb

    def _compose(self) -> Bound:
        """Bind to the service and compose `call` and `submit`; deploy the service if necessary."""
        bound = self._bound
        if bound is not None:
            return bound
        if running_loop() is not None and self._origin.waits_to_bind():
            self._blocks(None)
        binding = self._origin.bind()
        made_by = self._made_by
        if made_by is not None and made_by._bound is None:  # noqa: SLF001 - same class
            made_by._bind_to(binding)  # noqa: SLF001 - so the next handle that it makes need not wait
        return self._bind_to(binding)

    def _bind_to(self, binding: Binding) -> Bound:
        """Compose `call` and `submit` for *binding*."""
        caller = Caller(
            self._name, self._options, self._timeout, self._latest, self._rebound, self._moved, self._blocks
        )
        bound = compose(binding, caller)
        self._set(_bound=bound, call=bound.call, submit=bound.submit)
        return bound

    def _blocks(self, method: str | None) -> None:
        """Warn once that a call of *method* (None: the deployment) blocks the event loop of this thread."""
        loop = running_loop()
        if self._warned or loop is None or not holds_up_a_loop(loop, CURRENT.get()):
            return
        self._set(_warned=True)
        warn_of_blocking(self._name, method)

    def _rebound(self, router: CallOwner, error: CallError) -> ServiceHandle:
        """Unbind this handle from *router* and return it, if the service was deployed again; else raise *error*."""
        if self._origin.bind().router is router:
            raise error
        bound = self._bound
        self._set(_bound=None)
        for name in ("call", "submit", *(() if bound is None else bound.binding.methods)):
            self.__dict__.pop(name, None)
        return self

    def _moved(self, call: Call, error: ServiceStoppedError) -> ServiceHandle:
        """
        Return a handle that repeats *call*, with the time that it has left, if the service was deployed again.

        Raise *error*, with which the call ended, if the service was not deployed again, or if the call was accepted.
        """
        if not call.was_turned_away():
            raise error
        self._rebound(call.owner, error)
        moved = self._again(self._options, self._timeout)
        moved._set(_latest=(call.expires, call.deadline), _warned=self._warned)  # noqa: SLF001 - same class
        return moved

    async def _arebound(self, router: Router, error: CallError) -> None:
        """`_rebound` for coroutines, in a thread: it may wait for the service to start."""
        from sage_plugins.call import aio

        await aio.in_thread(lambda: self._rebound(router, error), name=f"{self._name}-bind")

    async def _amoved(self, call: Call, error: ServiceStoppedError) -> ServiceHandle:
        """`_moved` for coroutines."""
        from sage_plugins.call import aio

        if not call.was_turned_away():
            raise error
        moved: ServiceHandle = await aio.in_thread(lambda: self._moved(call, error), name=f"{self._name}-bind")
        return moved

    def __repr__(self) -> str:
        return f"<ServiceHandle {self._name!r}>"

    def __reduce__(self) -> Any:
        """
        Make an equal handle in this process, or a handle to the same service in another one.

        Raises:
            CallError: The service cannot be called from other processes.
        """
        if self._origin.travels is None:
            msg = (
                f"the handle to {self._name!r} belongs to this process and cannot be pickled: take one from an "
                "Environment, and give the service a target that other processes reach, such as 'remote_any'"
            )
            raise CallError(msg, service=self._name)
        revive, arguments = self._origin.travels()
        unset = CallOptions()._asdict()
        given = {name: value for name, value in self._options._asdict().items() if value is not unset[name]}
        if self._timeout is not UNSET:
            given["timeout"] = self._timeout
        return revive, (*arguments, given)


def _tell_listener(call: Call) -> None:
    listener = CALL_LISTENER.get()
    if listener is not None and call.outer is None:  # a method inherits its caller's listener, which is not for it
        listener(call)
