"""
A handle's type: the methods of the class that the caller names, or the verbs if none is named.

Nothing here runs: mypy and pyright read it. A line that they must refuse carries ignore comments for both. If it is
accepted, the comments are errors: mypy's warn_unused_ignores, pyright's reportUnnecessaryTypeIgnoreComment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any, assert_type

from sage_plugins import Environment, ServiceHandle
from sage_plugins.call.call import Call
from sage_plugins.call.stream_reader import AsyncServiceStream, ServiceStream


class KV:
    """A service with a method of each kind."""

    def put(self, key: str, value: int, *, ttl: float | None = None) -> bool:
        """Store."""
        return bool(key) and value > 0 and ttl is None

    def get(self, key: str) -> int:
        """Read."""
        return len(key)

    async def fetch(self, key: str) -> bytes:
        """Read from another machine."""
        return key.encode()

    def scan(self, prefix: str) -> Iterator[str]:
        """Read many."""
        yield prefix

    async def follow(self, prefix: str) -> AsyncIterator[bytes]:
        """Read many from another machine."""
        yield prefix.encode()


def a_typed_handle_has_the_methods_of_its_class(env: Environment) -> None:
    """A typed handle has the methods of its class, with their parameters and results."""
    kv = env.service("kv", KV)
    assert_type(kv, KV)
    assert_type(kv.get("k"), int)
    assert_type(kv.put("k", 1), bool)
    assert_type(kv.put("k", 1, ttl=0.5), bool)
    assert_type(kv.scan("k"), Iterator[str])
    get: Callable[[str], int] = kv.get
    get("k")


async def a_typed_handle_tells_the_truth_of_each_kind_of_method(env: Environment) -> None:
    """What a method returns at run time can be used as the type that checkers see, for each kind of method."""
    kv = env.service("kv", KV)
    assert_type(kv.get("k"), int)
    assert_type(await kv.fetch("k"), bytes)
    for item in kv.scan("k"):
        assert_type(item, str)
    assert_type(kv.follow("k"), AsyncIterator[bytes])
    async for part in kv.follow("k"):
        assert_type(part, bytes)
    kv.fetch("k")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    number: int = kv.fetch("k")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    await kv.get("k")  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    list(kv.follow("k"))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    print(number)


def a_typed_handle_refuses_what_its_class_has_not(env: Environment) -> None:
    """Type checkers refuse wrong names, arguments and uses of the result."""
    kv = env.service("kv", KV)
    kv.git  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    kv.get(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    kv.get()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    kv.get("k", default=None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    kv.put("k", "v")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    kv.put("k", 1, 0.5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    text: str = kv.get("k")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(text)


def the_class_itself_is_asked_for(env: Environment) -> None:
    """`service` takes a class. Type checkers refuse an instance and a name."""
    env.service("kv", KV())  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    env.service("kv", "KV")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    env.service(KV)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def an_untyped_handle_has_the_verbs(env: Environment) -> None:
    """The verbs of an untyped handle return `Any` or futures, and `with_options` returns another handle."""
    kv = env.service("kv")
    assert_type(kv, ServiceHandle)
    assert_type(kv.call("get", "k"), Any)
    assert_type(kv.submit("get", "k"), Call)
    future: Future[Any] = kv.submit("put", "k", 1, ttl=0.5)
    assert_type(future.result(timeout=1), Any)
    assert_type(kv.with_options(timeout=0.2, key="k", idempotent=True), ServiceHandle)
    assert_type(kv.with_options(timeout=None).call("get", "k"), Any)


def an_untyped_handle_takes_any_method_name(env: Environment) -> None:
    """An untyped handle accepts any method name. The service refuses wrong ones when they are called."""
    kv = env.service("kv")
    assert_type(kv.get("k"), Any)
    assert_type(kv.anything(1, two=2), Any)
    kv.get = print  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]


def the_verbs_refuse_what_is_no_option(env: Environment) -> None:
    """Type checkers refuse a first argument that is not a name, unknown options, and options of the wrong type."""
    kv = env.service("kv")
    kv.call()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    kv.call(KV.get, "k")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    kv.with_options(0.2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    kv.with_options(timeout="0.2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    kv.with_options(retries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    kv.with_options(key=["no", "hash"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def a_stream_is_an_iterator_and_a_context(env: Environment) -> None:
    """A stream can be iterated and used as a context manager. Its items are `Any`."""
    kv = env.service("kv")
    with kv.stream("scan", "k") as items:
        assert_type(items, ServiceStream)
        for item in items:
            assert_type(item, Any)
    assert_type(kv.stream("scan", "k").close(), None)
    kv.stream(KV.scan, "k")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def a_stream_of_coroutines_is_asynchronous(env: Environment) -> None:
    """An asynchronous stream is made without `await`, and needs `async for`."""
    kv = env.service("kv")
    async with kv.astream("scan", "k") as items:
        assert_type(items, AsyncServiceStream)
        async for item in items:
            assert_type(item, Any)
    assert_type(await kv.astream("scan", "k").aclose(), None)
    list(kv.astream("scan", "k"))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def coroutines_await_the_result(env: Environment) -> None:
    """`acall` returns a result to await. Type checkers notice a missing `await`."""
    kv = env.service("kv")
    assert_type(await kv.acall("get", "k"), Any)
    assert_type(await kv.submit("get", "k"), Any)
    assert_type(await kv.aio.get("k"), Any)
    async for item in kv.aio.scan("k"):
        assert_type(item, Any)
    kv.acall("get", "k")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    async with env as entered:
        assert_type(entered, Environment)
    assert_type(await env.adeploy(), None)


def an_environment_enters_as_itself() -> None:
    """`with` returns the environment's own type, so a subclass keeps its methods."""

    class Mine(Environment):
        pass

    with Mine("mine") as env:
        assert_type(env, Mine)


def services_are_called_in_both_ways(env: Environment) -> None:
    """`call_service` can be called and indexed, and its asynchronous form returns futures."""
    assert_type(env.call_service("kv", "k", method="get", timeout=5.0), Any)
    assert_type(env.call_service["kv"].get("k", timeout=5.0), Any)
    assert_type(env.call_service_async("kv", "k", method="get"), Future[Any])
    assert_type(env.call_service_async["kv"].get("k"), Future[Any])
    env.call_service("kv", method=3)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
