"""Arguments that do not fit a constructor are found before anything starts, also for services registered in code."""

from __future__ import annotations

import abc

import pytest

from sage_plugins import ServiceDeploymentConfig, ServiceFactory, errors


class Store:
    def __init__(self, path, *, size=3):
        self.path = path
        self.size = size

    def get(self, key):
        return key


class Context(Store):
    def __init__(self, path, ctx):
        super().__init__(path)
        self.ctx = ctx


class Open:
    def __init__(self, *args, **kwargs):
        pass

    def get(self, key):
        return key


class Abstract(abc.ABC):
    @abc.abstractmethod
    def get(self, key): ...


WITH_CONFIG = "use register_service_with_config(..., deployment_config="
AS_FIELD = f"{WITH_CONFIG}ServiceDeploymentConfig(threading_strategy=...)"

MISTAKES = [
    (Store, (), {}, "E704", "needs 'path' (give it where Store is registered)"),
    (Store, ("a", "b"), {}, "E704", "takes at most 1 positional argument, got 2"),
    (Store, ("a",), {"path": "b"}, "E704", "is given twice"),
    (Store, ("a",), {"siez": 3}, "E704", "has no argument 'siez' (did you mean 'size'?)"),
    (
        Store,
        ("a",),
        {"threading_strategy": "pool"},
        "E704",
        AS_FIELD,
    ),
    (Store, ("a",), {"deployment_config": ServiceDeploymentConfig()}, "E704", f"{WITH_CONFIG}...)"),
    (Context, (), {}, "E704", "needs 'path'"),
    (Abstract, (), {}, "E703", "Abstract is an abstract class: it does not implement 'get'"),
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(env, mistake):
    """`check` reports arguments that do not fit, and `plan` and `deploy` refuse the service."""
    cls, args, kwargs, rule, text = mistake
    env.register_service("svc", cls, *args, **kwargs)
    found = [problem for problem in env.check() if problem.severity == "error"]
    assert [problem.id for problem in found] == [rule]
    assert text in str(found[0])
    for act in (env.plan, env.deploy):
        with pytest.raises(errors.PlanError) as caught:
            act()
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "args", "kwargs"),
    [
        (Store, ("a",), {}),
        (Store, (), {"path": "a", "size": 4}),
        (Context, ("a",), {}),
        (Open, (1, 2), {"threading_strategy": "pool"}),
    ],
)
def test_fitting_arguments(env, cls, args, kwargs):
    """Arguments that fit are accepted, and so is a `ctx` that the core provides."""
    env.register_service("svc", cls, *args, **kwargs)
    assert env.check() == []
    env.deploy()


def test_other_factories(env):
    """The arguments that a foreign factory passes to its class are not checked."""

    class Foreign:
        service_name = "svc"
        service_class = Store

        def create_service(self, _ctx):
            return Store("a")

    env.register_service_factory("svc", Foreign())
    env.register_service_factory("other", ServiceFactory("other", Store, ("a",)))
    assert env.check() == []
    env.deploy()
