"""A service whose methods take time, fail and stream. A replica's process can import it."""

from __future__ import annotations


class TimedDesk:
    def spin(self, turns: int) -> int:
        return sum(range(turns))

    def fail(self) -> None:
        raise LookupError("no such thing")

    def count(self, to: int):
        yield from range(to)
