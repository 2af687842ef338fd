"""Decorators for a service's methods do not change the methods' types."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

from sage_plugins import Environment, ServiceContext, batch_of, idempotent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class KV:
    """Declares every kind of method."""

    ctx: ServiceContext

    @idempotent
    def get(self, key: str, default: int = 0) -> int:
        """Read."""
        return len(key) or default

    @batch_of("get")
    def get_many(self, keys: list[str], defaults: list[int]) -> list[int]:
        """Read several at once."""
        return [self.get(key, default) for key, default in zip(keys, defaults, strict=True)]

    @idempotent
    @batch_of("fetch")
    async def fetch_many(self, keys: list[str]) -> list[bytes]:
        """Read several from another machine at once."""
        return [key.encode() for key in keys]

    @idempotent
    async def fetch(self, key: str) -> bytes:
        """Read from another machine."""
        return key.encode()

    @idempotent
    def scan(self, prefix: str) -> Iterator[str]:
        """Read many."""
        yield prefix

    @idempotent
    async def ascan(self, prefix: str) -> AsyncIterator[str]:
        """Read many from another machine."""
        yield prefix


async def an_idempotent_method_keeps_its_type(kv: KV) -> None:
    """An idempotent method keeps its type, on a typed handle too, and wrong arguments are refused."""
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


async def a_batch_method_keeps_its_type(kv: KV) -> None:
    """A batch method can be called like any other method."""
    assert_type(kv.get_many(["k"], [0]), list[int])
    assert_type(await kv.fetch_many(["k"]), list[bytes])
    kv.get_many(["k"])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    kv.get_many("k", [0])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def mistakes_in_a_declaration_show() -> None:
    """Type checkers refuse `idempotent` without the function, and `batch_of` without a method's name."""
    idempotent(True)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # noqa: FBT003 - that is the mistake
    idempotent()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    batch_of(KV.get)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    batch_of("get")(True)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # noqa: FBT003 - as above
