"""How services of an attached SAGE environment are deployed."""

from __future__ import annotations

from typing import Any

from sage_plugins import ServiceDeploymentConfig

POOL = ServiceDeploymentConfig(threading_strategy="pool", thread_count=2, thread_pool_size=2)


def strategy_of(env: Any, name: str = "svc") -> str:
    return str(env.get_service_status(name)["deployment_config"].threading_strategy)
