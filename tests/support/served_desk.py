"""A service with every kind of argument, result and behaviour that a server must handle."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - the server reads the annotations
import enum
import threading
from dataclasses import dataclass


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Item:
    name: str
    count: int = 1


class Desk:
    def greet(self, name: str, *, times: int = 1) -> str:
        return f"hello {name} " * times

    def add(self, a: int, b: int) -> int:
        return a + b

    def describe(self, item: Item, colour: Colour, day: dt.date) -> dict[str, object]:
        kinds = [type(item).__name__, type(day).__name__]
        return {"item": item, "colour": colour, "day": day.isoformat(), "kinds": kinds}

    def size(self, data: bytes) -> int:
        return len(data)

    def raw(self) -> bytes:
        return b"\x00\x01"

    def fail(self) -> None:
        raise LookupError("no such thing")

    def odd(self) -> object:
        return object()

    async def later(self, value: object) -> object:
        return value

    def count(self, to: int):
        yield from range(to)

    def break_off(self):
        yield 1
        raise LookupError("broke off")

    def request(self) -> list[str | None]:
        self.ctx.logger.info("asked")
        return [self.ctx.request_id, self.ctx.service("inner").own()]

    def hold(self) -> None:
        while not self.ctx.cancelled:
            threading.Event().wait(0.01)


class Inner:
    def own(self) -> str | None:
        return self.ctx.request_id
