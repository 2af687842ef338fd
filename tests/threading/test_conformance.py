"""Every first-party threading strategy passes the suite for all strategies, and keeps its own rules."""

from __future__ import annotations

import pytest

from sage_deploy_testing import StrategyConformance
from sage_plugins import errors


class TestSingle(StrategyConformance):
    plugin_id = "single"


class TestMulti(StrategyConformance):
    plugin_id = "multi"


class TestAsync(StrategyConformance):
    plugin_id = "async"


class TestPool(StrategyConformance):
    plugin_id = "pool"

    def test_pool_grows_to_its_size_before_calls_are_refused(self):
        """With `queue_size` 0 a pool grows to `thread_pool_size` threads before it refuses calls."""
        service = self.deploy(queue_size=0, overload="reject", thread_count=1, thread_pool_size=4)
        gate = self.watch()
        calls = [service.handle.submit("hold", gate.checkpoint) for _ in range(4)]
        gate.wait(4)
        assert len(self.replica_threads()) == 4
        with pytest.raises(errors.OverloadedError):
            service.handle.submit("echo")
        gate.open()
        assert [call.result(self.patience) for call in calls] == [0] * 4


class TestInline(StrategyConformance):
    plugin_id = "inline"
