"""A service whose decorators hide that its methods are coroutines or generators."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

from sage_plugins import batch_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

__all__ = ["Disguised"]


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a method the usual way: the wrapper looks like a plain function."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Disguised:
    """Methods that look like plain functions. Each records the thread in which its body ran."""

    def __init__(self) -> None:
        self._ran: list[int] = []

    def ran(self) -> list[int]:
        """Return the threads in which bodies have run."""
        return self._ran

    @_plain
    async def coroutine(self, value: Any) -> Any:
        self._ran.append(threading.get_ident())
        return value

    @_plain
    async def failing(self, value: Any) -> Any:
        raise LookupError(value)

    async def nested(self, value: Any) -> Any:
        return self.coroutine(value)

    @_plain
    def generator(self, value: Any) -> Iterator[Any]:
        self._ran.append(threading.get_ident())
        yield value

    def expression(self, value: Any) -> Iterator[Any]:
        return (each for each in self._noted(value))

    def _noted(self, value: Any) -> list[Any]:
        self._ran.append(threading.get_ident())
        return [value]

    @_plain
    async def agenerator(self, value: Any) -> AsyncIterator[Any]:
        self._ran.append(threading.get_ident())
        yield value

    async def agives(self, value: Any) -> Any:
        return self.generator(value)

    def single(self, value: Any) -> Any:
        return value

    @batch_of("single")
    @_plain
    async def together(self, values: list[Any]) -> list[Any]:
        return [(each for each in values) if each == "generator" else self._after(each) for each in values]

    def _after(self, value: Any) -> Any:
        return self.coroutine(value) if value == "coroutine" else value
