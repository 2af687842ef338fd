"""What callers hold: the verbs of a call, each the shortest way to the router, and the methods of the service."""

from __future__ import annotations

from contextvars import copy_context
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, Never

from sage_plugins.call.current import CALL_LISTENER, CURRENT
from sage_plugins.call.event_loops import holds_up_a_loop, running_loop, warn_of_blocking
from sage_plugins.errors import CallError, MethodNotFoundError, ServiceStoppedError
from sage_plugins.routing.handles.attribute_calls import AioMethods, attribute_call, find_method, read_only, served_by
from sage_plugins.routing.handles.binding import ANEW, UNSET, Caller, compose, look_what_is_lost, run_here
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
    Where all handles of a service come from; see `ServiceHandle.__init__`.
    """

    bind: Callable[[], Binding]
    travels: Callable[[], tuple[Callable[..., ServiceHandle], tuple[Any, ...]]] | None
    service_class: Callable[[], type | None]
    waits_to_bind: Callable[[], bool]
    methods: Callable[[], Mapping[str, MethodPlan] | None]


class ServiceHandle:
    """
    Calls one service; made by `Environment.service`.

    Every served method whose name the handle does not use itself is an attribute, and a call of it has the shape of the
    method: `handle.get("k")` waits for the value of a plain method, gives the awaitable `Call` of an `async def`
    method, and an iterator, or an asynchronous one, of a generator method. `handle.aio.get("k")` is for event loops.

    A handle stays valid while replicas come and go, and is safe from any thread and event loop. Making one starts
    nothing: the first call deploys the service if that has not happened.
    """

    _name: str
    _origin: _Origin
    _options: CallOptions
    _timeout: Any
    _bound: Bound | None
    _latest: tuple[float, float] | None  # `expires` and `deadline` of a call that is made once more
    _made_by: ServiceHandle | None  # the handle whose `with_options` made this one
    _warned: bool  # whether the `BlockingCallWarning` was given

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
            name: Name of the service.
            bind: Gives the service's binding, deploying it if need be.
            options: For all calls of this handle.
            timeout: Seconds from call to answer for all methods; None for no limit, unset for what the configuration
                says.
            travels: Gives what its pickle consists of: a function that makes a handle again, and its first arguments;
                the last is a mapping of what `with_options` was given. Raises CallError if the service cannot be called
                from elsewhere. None if the handle belongs to this process.
            service_class: Gives the service's class, None if it is not known in this process; must not wait.
            waits_to_bind: Says whether *bind* has to wait for the service to start; must not wait itself.
            methods: Gives the plans of the methods as far as they are known before it is bound; must not wait.
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
        """Set attributes of its own, which `__setattr__` refuses to users."""
        self.__dict__.update(attributes)

    # -- verbs -------------------------------------------------------------------------------------------------------
    #
    # The first call of a handle takes the way below; `_compose` then puts the composed verbs into the instance, where
    # they hide these.

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """
        Call *method* and wait for its result.

        Raises:
            CallTimeoutError: There was no answer within the timeout, the time in the queue included.
            OverloadedError: The queue is full, or the call could not be answered in time, and `overload` is not
                `block`. Under `shed_oldest` and `priority` also if it made room for another call while it waited.
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
            CallTimeoutError: There was no room within the timeout.
            OverloadedError, ServiceStoppedError, MethodNotFoundError, TypeError: As for `call`.
        """
        call: Call = self._verb("submit")(method, *args, **kwargs)
        return call

    def start(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """
        Like `submit`, but never waits for room: with a full queue the call is on its way before there is any.

        Under `inline` the method runs before this returns, as with `submit`.
        """
        bound = self._compose()
        binding = bound.binding
        try:
            call = bound.make(method, args, kwargs)
            binding.router.route(call)
        except ANEW as error:
            return self._rebound(binding.router, error).start(method, args, kwargs)
        except BaseException as error:
            look_what_is_lost(binding.router, error)
            raise
        if binding.runs_here and not call.over():
            call.hold()
        return call

    def stream(self, method: str, /, *args: Any, **kwargs: Any) -> ServiceStream:
        """
        The items of a generator method, as an iterator.

        The generator runs in the replica, at most `stream.AHEAD` items ahead, and holds its slot until it ends. The
        timeout bounds each wait for an item, the first one's from the call on. `close()`, leaving a `with` block or
        dropping the stream ends the generator.

        Raises:
            TypeError: The method is no generator, which needs `call`.
            CallTimeoutError, OverloadedError, ServiceStoppedError, MethodNotFoundError: As for `submit`.
        """
        from sage_plugins.call.stream_reader import ServiceStream

        if running_loop() is not None:
            self._blocks(method)
        return ServiceStream(
            self._start_stream(method, args, kwargs),
            lambda call, error: self._moved(call, error)._start_stream(method, args, kwargs),  # noqa: SLF001 - as self
        )

    def _start_stream(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamCall:
        bound = self._compose()
        binding = bound.binding
        try:
            call = bound.make_stream(method, args, kwargs)
        except MethodNotFoundError as error:
            return self._rebound(binding.router, error)._start_stream(method, args, kwargs)  # noqa: SLF001 - self
        if binding.runs_here:
            from sage_plugins.call import aio

            # Producer and consumer take turns, so they cannot share a thread.
            aio.start_thread(lambda: run_here(call, binding.router), name=f"{self._name}-stream")
            return call
        try:
            accepted = binding.router.route(call)
        except ServiceStoppedError as error:
            return self._rebound(binding.router, error)._start_stream(method, args, kwargs)  # noqa: SLF001 - self
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
        binding = bound.binding
        try:
            call = bound.make_stream(method, args, kwargs)
        except MethodNotFoundError as error:
            await self._arebound(binding.router, error)
            return await self._astart_stream(method, args, kwargs)
        _tell_listener(call)
        if binding.runs_here:
            aio.start_thread(lambda: run_here(call, binding.router), name=f"{self._name}-stream")
            return call
        try:
            binding.router.route(call)
        except ServiceStoppedError as error:
            await self._arebound(binding.router, error)
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
        try:
            call = self._send(bound, method, args, kwargs)
        except ANEW as error:
            await self._arebound(bound.binding.router, error)
            return await self.acall(method, *args, **kwargs)
        try:
            return await aio.outcome(call)
        except ServiceStoppedError as error:
            moved = await self._amoved(call, error)
            return await moved.acall(method, *args, **kwargs)

    def _send(self, bound: Bound, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Make a call and send it on its way, without ever waiting."""
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
        """An attribute call of an `async def` method: as `submit`, but on an event loop it never waits for room."""
        if running_loop() is None:
            return self.submit(method, *args, **kwargs)
        bound = self._compose()
        try:
            return self._send(bound, method, args, kwargs)
        except ANEW as error:
            return self._rebound(bound.binding.router, error)._begin(method, args, kwargs)  # noqa: SLF001 - self

    @cached_property
    def aio(self) -> AioMethods:
        """
        The methods of the service for coroutines: `await handle.aio.get("k")`, whatever kind of method `get` is.

        None of them ever blocks the event loop. A generator method gives an asynchronous iterator.
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
        A second handle to the same service, with other options for its calls.

        Args:
            timeout: Seconds from call to answer, None for no limit.
            key: Key for balancers that send equal keys to the same replica.
            idempotent: Whether these calls may run twice, whatever the method declares.
            priority: Of these calls, where the service has `overload: priority`: those with a higher one start first.
                From -1,000,000 to 1,000,000; 0 if nobody says otherwise.

        Raises:
            ConfigError: *timeout* is no number of seconds, *priority* no whole number in its range; or it is not 0 and
                the service has another `overload`, where it would have no effect. That is said by the first call, if
                the handle has not been used before.
            InvalidKeyError: *key* is not hashable. Balancers may ask for more: then the call itself raises it.
        """
        options = CallOptions(
            key=self._options.key if key is UNSET else checked_key(key, self._name),
            idempotent=self._options.idempotent if idempotent is UNSET else idempotent,
            priority=self._options.priority if priority is UNSET else checked_priority(priority),
        )
        again = self._again(options, self._timeout if timeout is UNSET else checked_timeout(timeout))
        bound = self._bound
        if bound is not None:  # it need not wait for the way to the replicas, nor leave an event loop for that
            again._bind_to(bound.binding)  # noqa: SLF001 - as self
        else:
            again._set(_made_by=self)  # noqa: SLF001 - as self
        return again

    def _again(self, options: CallOptions, timeout: Any) -> ServiceHandle:
        """A second handle to the same service."""
        return ServiceHandle(self._name, options=options, timeout=timeout, **self._origin._asdict())

    # -- the methods as attributes -----------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """
        The served method *name* as a function.

        Raises:
            MethodNotFoundError: The service serves no such method. It is an AttributeError.
        """
        if name.startswith("_"):
            raise AttributeError(name)
        bound = self._bound
        method = attribute_call(self, name, *find_method(self._name, name, *self._known()))
        if bound is not None:  # so that the next access does not come here; before that the class may be another one
            self.__dict__[name] = method
        return method

    def _known(self) -> tuple[Mapping[str, MethodPlan] | None, type | None]:
        """The plans of the methods and the class, as far as they are known."""
        bound = self._bound
        plans = self._origin.methods() if bound is None else bound.binding.methods
        return plans, self._origin.service_class()

    def _bound_kind(self, name: str) -> MethodKind:
        """What calling the method *name* gives; binds to the service for that."""
        plan = self._compose().binding.methods.get(name)
        return MethodKind.SYNC if plan is None else plan.kind  # `call` says what is wrong, or finds it deployed anew

    def _served(self) -> list[str]:
        """Names of the served methods, as far as they are known."""
        return served_by(*self._known())

    def __dir__(self) -> list[str]:
        """The verbs and the served methods."""
        own = [name for name in dir(type(self)) if not name.startswith("_") or name.startswith("__")]
        return sorted({*own, *self._served()})

    def __setattr__(self, name: str, value: Never) -> Never:
        """Refuse."""
        raise read_only(f"the handle to '{self._name}'", name)

    def __delattr__(self, name: str) -> Never:
        """Refuse."""
        raise read_only(f"the handle to '{self._name}'", name)

    # -- finding the way ---------------------------------------------------------------------------------------------

    def _verb(self, name: str) -> Callable[..., Any]:
        """The composed verb *name*."""
        bound = self._compose()
        verb: Callable[..., Any] = bound.call if name == "call" else bound.submit
        return verb

    def _compose(self) -> Bound:
        """Bind to the service, deploying it if need be, and compose the verbs."""
        bound = self._bound
        if bound is not None:
            return bound
        if running_loop() is not None and self._origin.waits_to_bind():
            self._blocks(None)
        binding = self._origin.bind()
        made_by = self._made_by
        if made_by is not None and made_by._bound is None:  # noqa: SLF001 - as self
            made_by._bind_to(binding)  # noqa: SLF001 - and so the next that it makes need not wait either
        return self._bind_to(binding)

    def _bind_to(self, binding: Binding) -> Bound:
        """Compose the verbs for *binding*."""
        caller = Caller(
            self._name, self._options, self._timeout, self._latest, self._rebound, self._moved, self._blocks
        )
        bound = compose(binding, caller)
        self._set(_bound=bound, call=bound.call, submit=bound.submit)
        return bound

    def _blocks(self, method: str | None) -> None:
        """Warn once that a call of *method* waits while an event loop runs in this thread; None: that binding does."""
        loop = running_loop()
        if self._warned or loop is None or not holds_up_a_loop(loop, CURRENT.get()):
            return
        self._set(_warned=True)
        warn_of_blocking(self._name, method)

    def _rebound(self, router: CallOwner, error: CallError) -> ServiceHandle:
        """This handle, unbound from *router*, if the service was deployed again since; else raises *error*."""
        if self._origin.bind().router is router:
            raise error
        bound = self._bound
        self._set(_bound=None)
        for name in ("call", "submit", *(() if bound is None else bound.binding.methods)):
            self.__dict__.pop(name, None)
        return self

    def _moved(self, call: Call, error: ServiceStoppedError) -> ServiceHandle:
        """
        A handle to make *call* once more, with the time that it has left, if the service was deployed again since.

        Else, and unless it was turned away while it waited for room, raises *error*, with which it ended.
        """
        if not call.was_turned_away():
            raise error
        self._rebound(call.owner, error)
        moved = self._again(self._options, self._timeout)
        moved._set(_latest=(call.expires, call.deadline), _warned=self._warned)  # noqa: SLF001 - as self
        return moved

    async def _arebound(self, router: Router, error: CallError) -> None:
        """`_rebound` for coroutines: the service may be starting, and the loop must not wait for that."""
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
        """Name of the service."""
        return f"<ServiceHandle {self._name!r}>"

    def __reduce__(self) -> Any:
        """
        In another process, a handle to the same service; in this one, an equal handle.

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
    if listener is not None and call.outer is None:  # a method has its caller's context, and calls of its own
        listener(call)
