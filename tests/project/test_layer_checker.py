"""The checker of imports finds each fault that is planted, and lets good imports pass."""

from __future__ import annotations

import pytest

from import_layers import faults_of_core, faults_of_plugin

OFFERED = {"Environment": "environment", "hookimpl": "hookspecs"}


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("call", "from sage_plugins.deployment.task import ServiceTask", "call:1 (layer 1) imports deployment (5)"),
        ("call", "def f():\n    from sage_plugins import routing", "call:2 (layer 1) imports routing (4)"),
        ("call", "from .planning import plan", "call:1 (layer 1) imports planning (6)"),
        ("call", "from sage_plugins import Environment", "call:1 (layer 1) imports environment (7)"),
        (
            "call",
            "import importlib\nimportlib.import_module('sage_plugins.compat')",
            "call:2 (layer 1) imports compat (8)",
        ),
        ("call", "import sage_plugins", "call:1 imports the package"),
        ("call", "from sage_deploy_testing import doubles", "call:1 imports the plugin sage_deploy_testing"),
        ("call", "if TYPE_CHECKING:\n    from sage_deploy_testing import doubles", "call:2 imports the plugin"),
        ("call", "if TYPE_CHECKING:\n    pass\nelse:\n    from sage_plugins.compat import tasks", "call:4 (layer 1)"),
        ("call", "import sage_deploy_local", "call:1 imports the plugin sage_deploy_local"),
        ("call", "from sage_plugins.novelty import x", "call:1 imports novelty, which is in no layer"),
        ("novelty", "", "novelty is in no layer"),
    ],
)
def test_checker_finds_faults_of_the_core(module, source, fault):
    """The checker reports each way in which the core can break the rules."""
    (found,) = faults_of_core(module, source, OFFERED)
    assert found.startswith(fault)


@pytest.mark.parametrize(
    "source",
    [
        "from sage_plugins.errors import CallError",
        "from sage_plugins.config.service_config import ServiceDeploymentConfig",
        "import typing\nif typing.TYPE_CHECKING:\n    from sage_plugins.environment.environment import Environment",
        "import asyncio.events, sage",
    ],
)
def test_checker_lets_good_imports_of_the_core_pass(source):
    """The core may import lower layers, its own layer, foreign packages, and anything for type checkers."""
    assert faults_of_core("call", source, OFFERED) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("from sage_plugins.routing.router import Router", "imports routing, above layer 3"),
        ("from sage_plugins import Environment", "imports environment, above layer 3"),
        ("from sage_plugins import unheard_of", "imports unheard_of, above layer 3"),
        ("from sage_plugins.host.host import _private", "imports the private sage_plugins.host.host._private"),
        ("from sage_deploy_testing import doubles", "imports another plugin: sage_deploy_testing"),
        ("def create():\n    import sage_deploy_ray.target", "imports another plugin: sage_deploy_ray.target"),
    ],
)
def test_checker_finds_faults_of_plugins(source, fault):
    """The checker reports each way in which a plugin can break the rules."""
    (found,) = faults_of_plugin("sage_deploy_local", source, OFFERED, "sage_deploy_local")
    assert found.endswith(fault)


def test_checker_lets_good_imports_of_plugins_pass():
    """A plugin may import itself, public names, and layers 0 to 3."""
    source = (
        "from sage_plugins import hookimpl\nfrom sage_plugins.host.host import Host\nfrom . import target\nimport attrs"
    )
    assert faults_of_plugin("sage_deploy_local", source, OFFERED, "sage_deploy_local") == []


@pytest.mark.parametrize("importing", ["sage_deploy_ray", "sage_deploy_process"])
def test_checker_lets_target_plugins_import_the_library(importing):
    """A target with replicas in other processes may import `sage_deploy_remote`; other plugins may not."""
    source = "from sage_deploy_remote.link.transport import Transport"
    assert faults_of_plugin(importing, source, OFFERED, importing) == []
    assert len(faults_of_plugin("sage_deploy_local", source, OFFERED, "sage_deploy_local")) == 1


def test_checker_lets_the_library_be_a_calling_side():
    """`sage_deploy_remote` may import routers, as the calling side does; other plugins may not."""
    source = "from sage_plugins.routing.router import Router\nfrom sage_plugins.process_end import find"
    assert faults_of_plugin("sage_deploy_remote.reach", source, OFFERED, "sage_deploy_remote") == []
    assert len(faults_of_plugin("sage_deploy_ray", source, OFFERED, "sage_deploy_ray")) == 2


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import ray", "imports the runtime ray"),
        ("if TYPE_CHECKING:\n    from ray import ObjectRef", "imports the runtime ray"),
        ("from sage_deploy_ray.options import RayOptions", "imports another plugin: sage_deploy_ray.options"),
        ("from sage_plugins.deployment.task import ServiceTask", "imports deployment, above layer 3"),
    ],
)
def test_checker_finds_faults_of_the_library(source, fault):
    """The library must not import a runtime, other plugins, or higher layers."""
    (found,) = faults_of_plugin("sage_deploy_remote.link", source, OFFERED, "sage_deploy_remote")
    assert found.endswith(fault)


def test_checker_sees_what_an_adapter_may_import():
    """An adapter may import the names that `sage_plugins` offers, but no module of a higher layer."""
    good = "from sage_plugins import Environment"
    bad = "from sage_plugins.environment.environment import Environment\nfrom sage_plugins import unheard_of"

    assert faults_of_plugin("sage_deploy_sage", good, OFFERED, "sage_deploy_sage") == []
    assert len(faults_of_plugin("sage_deploy_sage", bad, OFFERED, "sage_deploy_sage")) == 2
