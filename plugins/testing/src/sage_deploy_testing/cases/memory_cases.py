"""The rules for memory: nothing of a finished call is kept."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from sage_deploy_testing.suites.probes import ProbeError
from sage_deploy_testing.suites.service_conformance import ServiceConformance

__all__ = ["Mark", "MemoryCases"]


class Mark:
    """An object whose end a case can observe."""


class MemoryCases(ServiceConformance):
    """Idle workers, event loops and pools hold nothing of the calls that they ran."""

    @pytest.mark.parametrize(("method", "fails"), [("echo", "fail"), ("aecho", "afail")])
    def test_nothing_of_a_finished_call_is_kept(self, method: str, fails: str) -> None:
        """Once its caller has dropped a call, its arguments, result and exception are freed."""
        service = self.deploy()
        marks: list[weakref.ref[Mark]] = []

        def ask(name: str, *args: Any) -> None:
            mark = Mark()
            marks.append(weakref.ref(mark))
            call = service.handle.submit(name, *args, mark)
            if call.exception(self.patience) is None:
                marks.append(weakref.ref(call.result()))
            else:
                assert isinstance(call.exception(), ProbeError)

        for _ in range(3):
            ask(method)
            ask(fails, "text")

        def all_free() -> bool:
            gc.collect()
            return not any(mark() for mark in marks)

        self.until(all_free)
        assert len(marks) == 9
