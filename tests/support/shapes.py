"""A service with a method of every kind, and how to wait for what its methods give."""

from __future__ import annotations

import asyncio

import pytest

STRATEGIES = pytest.mark.parametrize("strategy", ["single", "pool", "async", "inline"])


class Shapes:
    """One method of each kind."""

    def get(self, key: str, *, default: int = 3) -> tuple[str, int]:
        """Give the key and the default."""
        return key, default

    async def fetch(self, key, *, default=3):
        """Return the key and the default from a coroutine."""
        await asyncio.sleep(0)
        return key, default

    def count(self, number):
        """Yield the numbers."""
        yield from range(number)

    async def acount(self, number):
        """Yield the numbers from an async generator."""
        for value in range(number):
            yield value

    @staticmethod
    def twice(value):
        return 2 * value

    @classmethod
    def named(cls, value):
        return cls.__name__, value

    def fail(self):
        raise KeyError("k")

    async def afail(self):
        raise KeyError("k")

    def run(self, function, /, *args):
        return function(*args)

    async def arun(self, function, /, *args):
        return await function(*args)

    def stop(self): ...

    def _hidden(self): ...


async def awaited(make):
    return await make()


async def listed(items):
    return [item async for item in items]
