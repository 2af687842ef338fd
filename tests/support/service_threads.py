"""The threads that run a test's services, and configurations with few of them."""

from __future__ import annotations

import threading

from sage_plugins import ServiceDeploymentConfig


def config(strategy, **fields):
    sizes = {"thread_count": 2, "thread_pool_size": 2} if strategy == "pool" else {}
    return ServiceDeploymentConfig(threading_strategy=strategy, **(sizes | fields))


EARLIER = set()


def ours():
    """The names of the threads that run this test's services."""
    new = set(threading.enumerate()) - EARLIER
    return [thread.name for thread in new if thread.name.startswith("svc")]
