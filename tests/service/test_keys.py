"""A call's key comes from `with_options(key=...)`, or from the argument that the balancer's options name."""

from __future__ import annotations

import attrs
import pytest

import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_plugins import ServiceDeploymentConfig, errors
from sage_plugins.hookspecs import hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration

PATIENCE = 20.0
KEYED = frozenset({"names_key"})


class Service:
    """Methods that take the argument in every possible way, or not at all."""

    def plain(self, other, user_id):
        return user_id

    def default(self, other=None, user_id="nobody"):
        return user_id

    def by_name(self, *others, user_id=None):
        return user_id

    def by_position(self, user_id, /):
        return user_id

    def anything(self, **values):
        return values.get("user_id")

    @staticmethod
    def static(user_id):
        return user_id

    @classmethod
    def of_class(cls, user_id):
        return user_id

    async def coroutine(self, user_id):
        return user_id

    def without(self, other=None):
        return other

    def variadic(self, *user_id):
        return user_id

    def misspelled(self, userid=None):
        return userid


@attrs.frozen
class SpyOptions:
    by: str | None = None


class Spy:
    """A balancer that records the keys that it gets."""

    binding = False

    def __init__(self, by):
        self.key_argument = by
        self.keys = []

    def picker(self, candidates):
        def pick(key, _method):
            self.keys.append(key)
            return candidates[0]

        return pick


@pytest.fixture
def keyed(deploy):
    """Deploys a service behind a spy and returns the service and the recorded keys."""

    def make(argument="user_id", cls=Service, strategy="single", **config):
        spies = []

        def create(options, _where):
            spies.append(Spy(options.by))
            return spies[-1]

        class Plugin:
            @hookimpl
            def sage_register_load_balancers(self):
                return [Registration("spy", create, "Keeps keys", options=SpyOptions, capabilities=KEYED)]

        registry = Registry.of(Plugin(), sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)
        fields = {"replicas": 2, "load_balancing": True, "load_balancer": "spy", "options": {"spy": {"by": argument}}}
        service = deploy(strategy, cls, env_options={"registry": registry}, **(fields | config))
        return service, spies[-1].keys

    return make


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "key"),
    [
        ("plain", (1, "u"), {}, "u"),
        ("plain", (1,), {"user_id": "u"}, "u"),
        ("plain", (), {"user_id": "u", "other": 1}, "u"),
        ("default", (), {}, "nobody"),
        ("default", (1,), {}, "nobody"),
        ("default", (1, None), {}, None),
        ("default", (), {"user_id": 7}, 7),
        ("by_name", (1, 2), {"user_id": "u"}, "u"),
        ("by_name", (1, 2), {}, None),
        ("by_position", ("u",), {}, "u"),
        ("anything", (), {"user_id": "u"}, "u"),
        ("anything", (), {"other": "u"}, None),
        ("static", ("u",), {}, "u"),
        ("of_class", ("u",), {}, "u"),
        ("coroutine", ("u",), {}, "u"),
        ("without", ("u",), {}, None),
        ("variadic", ("u",), {}, None),
    ],
)
def test_argument_is_the_key_however_it_is_given(keyed, method, args, kwargs, key):
    """
    The key is the argument, whether given by position, by name or by default.

    Without the argument there is no key.
    """
    service, keys = keyed()
    service.handle.call(method, *args, **kwargs)
    assert keys == [key]


def test_key_of_the_handle_wins(keyed):
    """A key from `with_options` wins over the argument."""
    service, keys = keyed()
    service.handle.with_options(key="mine").plain(1, "theirs")
    service.handle.with_options(key=None).plain(1, "theirs")
    assert keys == ["mine", "theirs"]


def test_without_an_argument_only_the_handle_gives_keys(keyed):
    """If the balancer names no argument, only `with_options` gives keys."""
    service, keys = keyed(argument=None)
    service.handle.plain(1, "theirs")
    service.handle.with_options(key="mine").plain(1, "theirs")
    assert keys == [None, "mine"]


def test_every_verb_and_strategy_gives_the_key(keyed, strategy, in_thread):
    """`call`, `submit` and `acall` give the balancer the key, under every strategy."""
    import asyncio

    service, keys = keyed(strategy=strategy)
    service.handle.plain(1, "called")
    service.handle.submit("plain", 1, "submitted").result(PATIENCE)
    in_thread(lambda: asyncio.run(service.handle.acall("plain", 1, "awaited"))).result(2 * PATIENCE)
    assert keys == ["called", "submitted", "awaited"]


def test_missing_argument_leaves_the_error_to_the_method(keyed):
    """A call without the required argument has no key, and the caller gets Python's TypeError."""
    service, keys = keyed()
    with pytest.raises(TypeError, match="user_id"):
        service.handle.plain(1)
    assert keys == [None]


def test_unhashable_argument_is_the_callers_error(keyed):
    """An argument that is not hashable raises InvalidKeyError, and the method does not run."""
    service, keys = keyed()
    with pytest.raises(
        errors.InvalidKeyError, match=r"svc\.plain: argument 'user_id': .* hashable, got list"
    ) as caught:
        service.handle.plain(1, ["u"])
    assert (caught.value.service, caught.value.method) == ("svc", "plain")
    assert isinstance(caught.value, TypeError)
    with pytest.raises(errors.InvalidKeyError):
        service.handle.submit("plain", 1, {"u"})
    assert (keys, service.metrics.request_count, service.waiting) == ([], 0, 0)
    assert service.handle.plain(1, "u") == "u"


def test_unhashable_key_of_a_handle_is_refused_at_once(keyed):
    """`with_options` refuses a key that is not hashable."""
    service, _ = keyed()
    with pytest.raises(errors.InvalidKeyError, match=r"'svc': a key must be hashable, got dict"):
        service.handle.with_options(key={})


def test_argument_of_no_method_is_an_error_of_the_plan(keyed):
    """If no method has the named argument, the plan fails with E507 at the option and suggests the nearest name."""

    class Strict(Service):
        anything = None

    with pytest.raises(errors.PlanError) as caught:
        keyed(argument="usr_id", cls=Strict)
    (problem,) = [each for each in caught.value.problems if each.severity == "error"]
    assert (problem.id, problem.key, problem.fix) == ("E507", "options.spy.by", "did you mean 'user_id'?")
    assert "'usr_id'" in problem.message
    assert "Strict" in problem.message


def test_class_that_takes_anything_has_every_argument(keyed):
    """A method with `**values` accepts any argument name as key."""
    service, keys = keyed(argument="anything_at_all")
    service.handle.anything(anything_at_all=1)
    assert keys == [1]


def test_one_replica_needs_no_key(deploy, env):
    """Without balancing the options of a balancer have no effect, and the plan warns of it."""
    config = ServiceDeploymentConfig(options={"consistent_hash": {"key": "user_id"}})
    env.register_service_with_config("svc", Service, deployment_config=config)
    (warning,) = env.plan().services[0].warnings
    assert (warning.id, warning.key) == ("W12", "options.consistent_hash")


def test_calls_of_one_user_run_on_one_replica(deploy):
    """With `consistent_hash`, calls with the same key argument run on the same replica."""

    class Cache:
        def get(self, item, user_id):
            return self.ctx.replica_index

    service = deploy(
        "single",
        Cache,
        replicas=3,
        load_balancing=True,
        load_balancer="consistent_hash",
        options={"consistent_hash": {"key": "user_id"}},
    )
    assert "a call's key is its argument 'user_id'" in str(service.env.plan())
    homes = [{service.handle.get(item, f"user-{user}") for item in range(3)} for user in range(30)]
    assert {len(home) for home in homes} == {1}
    assert set.union(*homes) == {0, 1, 2}
