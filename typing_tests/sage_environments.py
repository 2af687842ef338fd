"""An attached SAGE environment has SAGE's own methods and the methods for deployment, with their types."""

from __future__ import annotations

from typing import assert_type

from sage.runtime import LocalEnvironment  # pyright: ignore[reportMissingTypeStubs] # it has annotations but no py.typed

from sage_deploy_sage import DeployEnvironment, attach
from sage_plugins import Environment, ServiceDeploymentConfig, ServiceFactory, ServiceHandle
from sage_plugins.planning.plan import DeploymentPlan


class KV:
    """A service."""

    def get(self, key: str) -> int:
        """Read."""
        return len(key)


def an_attached_environment_has_both(env: LocalEnvironment) -> None:
    """An attached environment has its own methods and those that `attach` adds."""
    attached = attach(env, leave=["kv"], options={"ray": {"address": "auto"}})
    assert_type(attached, DeployEnvironment)
    assert_type(attached.name, str)
    attach(attached)
    config = ServiceDeploymentConfig()
    assert_type(attached.register_service_with_config("kv", KV, 1, deployment_config=config, size=2), ServiceFactory)
    assert_type(attached.register_service_on_nodes("kv", KV, nodes=["n1"], threads=2), ServiceFactory)
    assert_type(attached.register_local_service_pool("kv", KV, pool_size=2, max_threads=4), ServiceFactory)
    assert_type(attached.plan(), DeploymentPlan)
    assert_type(attached.service("kv"), ServiceHandle)
    assert_type(attached.service("kv", KV).get("k"), int)
    assert_type(attached.deployment, Environment)
    with attached as entered:
        assert_type(entered, DeployEnvironment)


def an_attached_environment_refuses_what_it_has_not(env: DeployEnvironment) -> None:
    """Type checkers refuse wrong names and arguments."""
    env.regster_service  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    env.service("kv", KV).get(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    attach("env")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
