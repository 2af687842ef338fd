"""An environment finds its own services only, and a handle finds its service again after a redeployment."""

from __future__ import annotations

import asyncio

import pytest

from sage_plugins import (
    Environment,
    ServiceTask,
    errors,
)

PATIENCE = 20.0
SHORT = 0.03


# -- looking up --------------------------------------------------------------------------------------------------------


def test_unknown_service_is_refused_at_once(env, given):
    """An unknown service raises ServiceNotFoundError before any call, and suggests the nearest name."""
    env.register_service("kv_service", given)
    for attempt in (env.service, env.call_service, env.get_service_status, env.task):
        with pytest.raises(errors.ServiceNotFoundError, match="did you mean 'kv_service'") as caught:
            attempt("kv_servise")
        assert isinstance(caught.value, LookupError)
        assert caught.value.service == "kv_servise"
    with pytest.raises(errors.ServiceNotFoundError, match="kv_service"):
        env.service("qqqqqqqqqq")
    assert given.made == 0


def test_unknown_service_in_an_empty_environment(env):
    """In an empty environment ServiceNotFoundError says that there are no services."""
    with pytest.raises(errors.ServiceNotFoundError, match="none"):
        env.service("kv")


def test_typed_handle_is_the_same_handle(env, given):
    """`service(name, cls)` returns the same handle; the class is for type checkers."""
    env.register_service("svc", given)
    assert env.service("svc", given).given() == ((), {})


def test_call_service_as_in_sage(env, given):
    """`call_service` calls `process` by default, and takes `method` and `timeout`."""
    env.register_service("svc", given)
    assert env.call_service("svc", 1, word="w") == ((1,), {"word": "w"})
    assert env.call_service("svc", method="given", timeout=5) == ((), {})
    with pytest.raises(errors.ConfigError, match="timeout"):
        env.call_service("svc", timeout=0)
    with pytest.raises(errors.MethodNotFoundError):
        env.call_service("svc", method="processs")


def test_call_service_leaves_other_names_to_the_method(env, given):
    """`call_service` passes all keywords but `method` and `timeout` to the method, even `name` and `self`."""
    env.register_service("svc", given)
    words = {"name": "n", "self": "s"}
    assert env.call_service("svc", **words) == ((), words)


def test_call_service_of_the_context_leaves_other_names_to_the_method(env, given):
    """The context's `call_service` passes `name` and `service` to the method."""

    class Asking:
        def ask(self, **words):
            return self.ctx.call_service("svc", **words), self.ctx.call_service_async("svc", **words).result(PATIENCE)

    env.register_service("svc", given)
    env.register_service("asking", Asking)
    words = {"name": "n", "service": "s"}
    assert env.service("asking").ask(**words) == (((), words), ((), words))


def test_call_service_has_a_deadline(env, probe, gate):
    """`call_service(timeout=)` sets the call's deadline."""
    env.register_service("svc", probe)
    with pytest.raises(errors.CallTimeoutError):
        env.call_service("svc", gate, method="run", timeout=SHORT)
    gate.open()


# -- services that call services ---------------------------------------------------------------------------------------


def test_environments_know_nothing_of_each_other(environments, given):
    """
    Environments are independent: the same name is another service in each, and closing one leaves the other alone.
    """
    first, second = environments("first"), environments("second")
    first.register_service("svc", given, 1)
    second.register_service("svc", given, 2)
    assert (first.service("svc").given(), second.service("svc").given()) == (((1,), {}), ((2,), {}))
    first.close()
    assert second.service("svc").given() == ((2,), {})


def test_names_of_the_public_interface(env, given):
    """`env.task` returns the ServiceTask, and no `repr` shows an argument's value."""
    env.register_service("svc", given, "a secret")
    assert isinstance(env.task("svc"), ServiceTask)
    assert env.task("svc") is env.task("svc")
    assert env.task("svc").service_name == "svc"
    for thing in (env, env.service("svc"), env.task("svc"), env.service_factories["svc"]):
        assert "a secret" not in repr(thing)
    call = env.service("svc").submit("process", "a secret")
    call.result(PATIENCE)
    assert repr(call) == "<Call svc.process finished>"
    assert isinstance(Environment("x").name, str)


# -- SAGE's dictionaries -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["call", "submit", "start", "acall", "stream", "astream"])
def test_handle_finds_a_service_that_was_deployed_again(env, verb):
    """A handle that has called before reaches its service after that was stopped and deployed again."""

    class Service:
        def get(self):
            return "answer"

        def items(self):
            yield "answer"

    async def first(items):
        return await anext(items)

    def use():
        if verb in ("call", "submit"):
            found = getattr(handle, verb)("get")
        elif verb == "start":
            found = handle.start("get", (), {})
        elif verb == "acall":
            found = asyncio.run(handle.acall("get"))
        elif verb == "stream":
            found = next(handle.stream("items"))
        else:
            found = asyncio.run(first(handle.astream("items")))
        return found.result(PATIENCE) if verb in ("submit", "start") else found

    env.register_service("svc", Service)
    handle = env.service("svc")
    assert use() == "answer"
    env.task("svc").stop()
    with pytest.raises(errors.ServiceStoppedError):
        use()
    env.deploy()
    assert use() == "answer"
    env.task("svc").stop()
    env.register_service("svc", Service)
    assert use() == "answer"


@pytest.mark.parametrize("strategy", ["single", "inline", "async"])
@pytest.mark.parametrize("verb", ["call", "submit", "acall", "stream", "astream"])
def test_errors_after_a_redeployment_do_not_mention_it(env, verb, strategy):
    """What a method raises has no trace of the handle's way to the service that was deployed again."""

    class Service:
        def fail(self):
            raise KeyError("k")

        def fail_later(self):
            raise KeyError("k")
            yield

    async def first(items):
        return await anext(items)

    def use():
        if verb == "call":
            handle.call("fail")
        elif verb == "submit":
            handle.submit("fail").result(PATIENCE)
        elif verb == "acall":
            asyncio.run(handle.acall("fail"))
        elif verb == "stream":
            next(handle.stream("fail_later"))
        else:
            asyncio.run(first(handle.astream("fail_later")))

    env.register_service_with_config("svc", Service, deployment_config={"threading_strategy": strategy})
    handle = env.service("svc")
    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            use()
        assert caught.value.__context__ is None
        env.task("svc").stop()
        env.deploy()
