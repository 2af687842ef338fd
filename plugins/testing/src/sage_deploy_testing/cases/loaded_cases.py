"""The base of cases that change a service while callers call it without a pause."""

from __future__ import annotations

import collections
import contextlib
import threading
from typing import TYPE_CHECKING

from sage_deploy_testing.suites.service_conformance import Deployed, ServiceConformance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["LoadedCases"]


class LoadedCases(ServiceConformance):
    """A base for cases under load. It has no cases itself."""

    @contextlib.contextmanager
    def load(self, service: Deployed, method: str = "echo", answer: str = "{}") -> Iterator[Callable[[int], None]]:
        """
        Call the service without a pause from four threads, each with its own key. A call that fails fails the case.

        Yield a function that waits until so many more calls have been answered. At the end, check that every call
        counted once.
        """
        over = threading.Event()
        answered: collections.Counter[int] = collections.Counter()

        def caller(number: int) -> None:
            handle = service.handle.with_options(key=number)
            while not over.is_set():
                value = f"{number}-{answered[number]}"
                assert handle.call(method, value) == answer.format(value)
                answered[number] += 1

        callers = [self.in_thread(caller, number) for number in range(4)]

        def wait(calls: int) -> None:
            before = answered.total()
            self.until(lambda: answered.total() >= before + calls or any(each.done() for each in callers))

        try:
            yield wait
        finally:
            over.set()
            for each in callers:
                each.result(self.patience)
        assert service.metrics.methods[method].request_count == answered.total()
        assert service.metrics.error_count == service.metrics.rejected_count == 0
