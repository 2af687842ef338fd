"""Services call other services and themselves. One that would wait for itself for ever is told so."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from sage_plugins import (
    ServiceDeploymentConfig,
    errors,
)

PATIENCE = 20.0


@pytest.mark.parametrize("first", ["front", "back"])
def test_services_call_services(env, strategy, first):  # noqa: C901 - a method for each way
    """Through `ctx` a service calls others in every way, whatever the order of registration."""

    class Front:
        def by_handle(self, value):
            return self.ctx.service("back").double(value)

        def by_typed_handle(self, value):
            return self.ctx.service("back", Back).double(value)

        def by_name(self, value):
            return self.ctx.call_service("back", value, method="double")

        def by_default(self, value):
            return self.ctx.call_service("back", value)

        def by_future(self, value):
            future = self.ctx.call_service_async("back", value, method="double", timeout=PATIENCE)
            assert isinstance(future, Future)
            return future.result()

        async def by_coroutine(self, value):
            return await self.ctx.service("back").acall("double", value)

        def unknown(self):
            return self.ctx.service("bakc")

    class Back:
        def double(self, value):
            return 2 * value

        def process(self, value):
            return ("processed", value)

    classes = {"front": Front, "back": Back}
    for name in sorted(classes, key=lambda name: name != first):
        config = ServiceDeploymentConfig(threading_strategy=strategy)
        env.register_service_with_config(name, classes[name], deployment_config=config)
    front = env.service("front")
    for method in ("by_handle", "by_typed_handle", "by_name", "by_future", "by_coroutine"):
        assert front.call(method, 21) == 42
    assert front.by_default(1) == ("processed", 1)
    with pytest.raises(errors.ServiceNotFoundError, match="did you mean 'back'"):
        front.unknown()


@pytest.mark.parametrize("through", ["itself", "another"])
def test_service_that_would_wait_for_itself_for_ever_is_told_so(env, strategy, through):
    """A call back into a service whose slots are all taken by the same chain of calls ends with ReentrantCallError."""

    class Calling:
        def ask(self, *names):
            if not names:
                return "end"
            return self.ctx.service(names[0]).ask(*names[1:])

    one = {"thread_count": 1, "thread_pool_size": 1} if strategy == "pool" else {}
    config = ServiceDeploymentConfig(threading_strategy=strategy, timeout=None, **one)
    for name in ("svc-a", "svc-b"):
        env.register_service_with_config(name, Calling, deployment_config=config)
    way = ["svc-a"] if through == "itself" else ["svc-b", "svc-a"]
    with pytest.raises(errors.ReentrantCallError, match=" -> ".join(f"{name}.ask" for name in ["svc-a", *way])):
        env.service("svc-a").ask(*way)
    assert env.service("svc-a").ask() == "end"


def test_service_may_call_itself_beside_free_slots(env):
    """A service can call itself while it has a free slot."""

    class Calling:
        def ask(self, again):
            return self.ctx.service("svc").ask(again=False) if again else "end"

    config = ServiceDeploymentConfig(threading_strategy="pool", thread_count=2)
    env.register_service_with_config("svc", Calling, deployment_config=config)
    assert env.service("svc").ask(again=True) == "end"


def test_errors_cross_services_as_themselves(env, strategy):
    """An exception passes unchanged from one service to the other."""

    class Front:
        def ask(self):
            return self.ctx.call_service("back", method="fail")

    class Back:
        def fail(self):
            raise KeyError("from the back")

    config = ServiceDeploymentConfig(threading_strategy=strategy)
    env.register_service_with_config("front", Front, deployment_config=config)
    env.register_service_with_config("back", Back, deployment_config=config)
    with pytest.raises(KeyError, match="from the back"):
        env.service("front").ask()
