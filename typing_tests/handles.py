"""
What type checkers and editors know of a handle: the methods of the class that was named, or the verbs of a call.

Nothing here runs; mypy and pyright read it. A line that must be refused carries the ignores of both, and one that turns
out to be accepted is an error itself: mypy's warn_unused_ignores, pyright's reportUnnecessaryTypeIgnoreComment.
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
        """Read from afar."""
        return key.encode()

    def scan(self, prefix: str) -> Iterator[str]:
        """Read many."""
        yield prefix

    async def follow(self, prefix: str) -> AsyncIterator[bytes]:
        """Read many from afar."""
        yield prefix.encode()


def a_typed_handle_has_the_methods_of_its_class(env: Environment) -> None:
    """With their parameters and results."""
    kv = env.service("kv", KV)
    assert_type(kv, KV)
    assert_type(kv.get("k"), int)
    assert_type(kv.put("k", 1), bool)
    assert_type(kv.put("k", 1, ttl=0.5), bool)
    assert_type(kv.scan("k"), Iterator[str])
    get: Callable[[str], int] = kv.get
    get("k")


async def a_typed_handle_tells_the_truth_of_each_kind_of_method(env: Environment) -> None:
    """What a call of each kind gives at run time can be used as what checkers take it for."""
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
    """Wrong names, arguments and uses of the result."""
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
    """An instance or a name is none."""
    env.service("kv", KV())  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    env.service("kv", "KV")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    env.service(KV)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def an_untyped_handle_has_the_verbs(env: Environment) -> None:
    """Results are Any, futures are futures, and the options make another handle."""
    kv = env.service("kv")
    assert_type(kv, ServiceHandle)
    assert_type(kv.call("get", "k"), Any)
    assert_type(kv.submit("get", "k"), Call)
    future: Future[Any] = kv.submit("put", "k", 1, ttl=0.5)
    assert_type(future.result(timeout=1), Any)
    assert_type(kv.with_options(timeout=0.2, key="k", idempotent=True), ServiceHandle)
    assert_type(kv.with_options(timeout=None).call("get", "k"), Any)


def an_untyped_handle_takes_any_method_name(env: Environment) -> None:
    """It cannot know them: the service refuses wrong ones when they are called."""
    kv = env.service("kv")
    assert_type(kv.get("k"), Any)
    assert_type(kv.anything(1, two=2), Any)
    kv.get = print  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]


def the_verbs_refuse_what_is_no_option(env: Environment) -> None:
    """The first argument is the method's name, and options have types."""
    kv = env.service("kv")
    kv.call()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    kv.call(KV.get, "k")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    kv.with_options(0.2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    kv.with_options(timeout="0.2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    kv.with_options(retries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    kv.with_options(key=["no", "hash"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def a_stream_is_an_iterator_and_a_context(env: Environment) -> None:
    """Of whatever the generator gives."""
    kv = env.service("kv")
    with kv.stream("scan", "k") as items:
        assert_type(items, ServiceStream)
        for item in items:
            assert_type(item, Any)
    assert_type(kv.stream("scan", "k").close(), None)
    kv.stream(KV.scan, "k")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def a_stream_of_coroutines_is_asynchronous(env: Environment) -> None:
    """Made without awaiting."""
    kv = env.service("kv")
    async with kv.astream("scan", "k") as items:
        assert_type(items, AsyncServiceStream)
        async for item in items:
            assert_type(item, Any)
    assert_type(await kv.astream("scan", "k").aclose(), None)
    list(kv.astream("scan", "k"))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def coroutines_await_the_result(env: Environment) -> None:
    """`acall` gives it; forgetting to await is noticed."""
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
    """So that a subclass keeps its own methods."""

    class Mine(Environment):
        pass

    with Mine("mine") as env:
        assert_type(env, Mine)


def services_are_called_in_both_ways(env: Environment) -> None:
    """`call_service` is called and indexed; the asynchronous one gives futures."""
    assert_type(env.call_service("kv", "k", method="get", timeout=5.0), Any)
    assert_type(env.call_service["kv"].get("k", timeout=5.0), Any)
    assert_type(env.call_service_async("kv", "k", method="get"), Future[Any])
    assert_type(env.call_service_async["kv"].get("k"), Future[Any])
    env.call_service("kv", method=3)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
