"""Decorators that declare something of a service's method leave its type as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

from sage_plugins import Environment, ServiceContext, idempotent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class KV:
    """Declares every kind of method."""

    ctx: ServiceContext

    @idempotent
    def get(self, key: str, default: int = 0) -> int:
        """Read."""
        return len(key) or default

    @idempotent
    async def fetch(self, key: str) -> bytes:
        """Read from afar."""
        return key.encode()

    @idempotent
    def scan(self, prefix: str) -> Iterator[str]:
        """Read many."""
        yield prefix

    @idempotent
    async def ascan(self, prefix: str) -> AsyncIterator[str]:
        """Read many from afar."""
        yield prefix


async def an_idempotent_method_keeps_its_type(kv: KV) -> None:
    """Also on a typed handle, and so do its errors."""
    assert_type(kv.get("k"), int)
    assert_type(kv.get("k", default=1), int)
    assert_type(await kv.fetch("k"), bytes)
    for key in kv.scan("k"):
        assert_type(key, str)
    async for key in kv.ascan("k"):
        assert_type(key, str)
    assert_type(Environment().service("kv", KV).get("k"), int)
    kv.get(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    kv.get("k", default="none")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def only_a_function_is_declared() -> None:
    """The decorator takes no arguments, and a mistake in its use shows."""
    idempotent(True)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # noqa: FBT003 - that is the mistake
    idempotent()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
