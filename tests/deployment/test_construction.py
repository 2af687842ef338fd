"""What a replica's constructor gets, and how a deployment ends whose constructors fail or hang."""

from __future__ import annotations

import dataclasses
import inspect
from types import FunctionType

import pytest

from sage_plugins import ServiceDeploymentConfig, ServiceTaskFactory, errors
from sage_plugins.deployment.replicas.waiting import raised_at
from sage_plugins.service.factory import ServiceFactory
from service_threads import config, ours

pytestmark = pytest.mark.usefixtures("_earlier")

SHORT = 0.03


# -- context and construction ------------------------------------------------------------------------------------------


def test_context_is_there_before_the_constructor(deploy, strategy):
    """`self.ctx` is set before `__init__` runs, and `super().__init__()` need not be called."""

    class Base:
        def __init__(self):
            raise AssertionError("nobody called this")

    class Asking(Base):
        def __init__(self):  # no super().__init__()
            self.seen = (self.ctx.name, self.ctx.replica_index, self.ctx.logger.name)

        def answer(self):
            return self.seen

    assert deploy(strategy, Asking).handle.answer() == ("svc", 0, "sage.service.svc")


def test_context_is_passed_to_a_free_parameter(deploy):
    """A constructor's `ctx` parameter gets the context, unless the caller gave it a value."""

    class Keyword:
        def __init__(self, word, *, ctx):
            self.given = (word, ctx is self.ctx)

        def answer(self):
            return self.given

    class Positional:
        def __init__(self, word, ctx=None):
            self.given = (word, ctx)

        def answer(self):
            return self.given

    class Anything:
        def __init__(self, **kwargs):
            self.given = kwargs

        def answer(self):
            return self.given

    assert deploy("single", Keyword, init={"word": "w"}).handle.answer() == ("w", True)
    word, ctx = deploy("single", Positional, "w").handle.answer()
    assert (word, ctx.name) == ("w", "svc")
    assert deploy("single", Positional, "w", "own").handle.answer() == ("w", "own")
    assert deploy("single", Positional, init={"word": "w", "ctx": None}).handle.answer() == ("w", None)
    assert deploy("single", Anything, init={"x": 1}).handle.answer() == {"x": 1}


def test_classes_of_every_make_can_be_served(deploy):
    """Classes with slots, their own `__new__`, a builtin base or a frozen dataclass can be services."""

    class Slotted:
        __slots__ = ("value",)

        def __init__(self):
            self.value = "slotted"

        def answer(self):
            return self.value

    class SlottedWithContext:
        __slots__ = ("ctx",)

        def answer(self):
            return self.ctx.name

    class OwnNew:
        def __new__(cls, value):
            made = super().__new__(cls)
            made.early = value
            return made

        def __init__(self, value):
            self.seen = (self.early, value, self.ctx.name)

        def answer(self):
            return self.seen

    class Mapping(dict):
        def __init__(self):
            super().__init__(name=self.ctx.name)

        def answer(self):
            return self["name"]

    @dataclasses.dataclass(frozen=True)
    class Frozen:
        value: int

        def answer(self):
            return self.value

    assert deploy("single", Slotted).handle.answer() == "slotted"
    assert deploy("single", SlottedWithContext).handle.answer() == "svc"
    assert deploy("single", OwnNew, 5).handle.answer() == (5, 5, "svc")
    assert deploy("single", Mapping).handle.answer() == "svc"
    assert deploy("single", Frozen, 3).handle.answer() == 3


def test_setting_given_to_the_constructor_gets_a_hint(env):
    """If a constructor rejects an argument named like a deployment setting, its TypeError says where that belongs."""

    class Plain:
        def __init__(self, **settings):  # its signature accepts anything
            self.set(**settings)

        def set(self, word="word"):
            self.word = word

    env.register_service("svc", Plain, thread_count=4)
    with pytest.raises(errors.DeployError) as caught:
        env.deploy()
    assert isinstance(caught.value.__cause__, TypeError)
    notes = "\n".join(getattr(caught.value.__cause__, "__notes__", []))
    assert "'thread_count' is a deployment setting" in notes
    assert "register_service_with_config" in notes


def test_other_type_errors_get_no_hint(env):
    """A TypeError about a setting's name that the constructor does accept gets no hint."""

    class Timed:
        def __init__(self, timeout):
            raise TypeError(f"bad timeout {timeout}")

    env.register_service("svc", Timed, timeout=4)
    with pytest.raises(errors.DeployError, match="bad timeout 4") as caught:
        env.deploy()
    assert not getattr(caught.value.__cause__, "__notes__", [])


# -- a start that fails ------------------------------------------------------------------------------------------------


def test_constructor_that_raises_fails_the_deployment(environments, strategy, until):
    """A constructor that raises fails the deployment with a DeployError that says which replica, what and where."""

    class Failing:
        def __init__(self):
            raise ValueError("no database")  # here

    env = environments()
    env.register_service_with_config("svc", Failing, deployment_config=config(strategy))
    with pytest.raises(errors.DeployError) as caught:
        env.deploy()
    lines, first = inspect.getsourcelines(Failing)
    line = first + next(number for number, text in enumerate(lines) if "# here" in text)
    text = str(caught.value)
    assert "while constructing service 'svc' replica 0: ValueError: no database" in text
    assert f"{__file__}:{line}" in text
    assert isinstance(caught.value.__cause__, ValueError)
    assert (caught.value.service, caught.value.replica) == ("svc", "svc#0")
    until(lambda: not ours())


def test_constructor_without_its_argument_names_no_line_of_ours(environments, strategy):
    """If the traceback has only frames of sage-deploy, the error names no line."""

    class Needy:
        __signature__ = inspect.Signature()  # so that the check of arguments before the start cannot find the mistake

        def __init__(self, path):
            """Not called."""

    env = environments()
    env.register_service_with_config("svc", Needy, deployment_config=config(strategy))
    with pytest.raises(errors.DeployError) as caught:
        env.deploy()
    text = str(caught.value)
    assert text.endswith("__init__() missing 1 required positional argument: 'path'"), text


@pytest.mark.parametrize(
    "module",
    ["sage_plugins.host.host", "sage_deploy_threading.workers", "sage_deploy_local", "sage_deploy_remote.link"],
)
def test_frames_of_our_packages_are_not_where_an_error_was_raised(module):
    """The place of an error is the innermost frame outside sage-deploy's packages, even if these were called back."""

    def fail():
        raise LookupError  # where it fails

    def in_module(name):
        return FunctionType(fail.__code__, {"__name__": name, "LookupError": LookupError})

    def call_back():
        ours()  # where it calls back

    def line_of(comment):
        lines, first = inspect.getsourcelines(test_frames_of_our_packages_are_not_where_an_error_was_raised)
        return first + next(number for number, text in enumerate(lines) if text.rstrip().endswith(f"# {comment}"))

    ours = in_module(module)
    with pytest.raises(LookupError) as caught:
        call_back()
    assert raised_at(caught.value) == f"{__file__}:{line_of('where it calls back')}"
    with pytest.raises(LookupError) as caught:
        in_module(f"my_{module}")()
    assert raised_at(caught.value) == f"{__file__}:{line_of('where it fails')}"


def test_constructor_error_without_text_fails_the_deployment(env):
    """An exception that cannot be printed is reported by its type."""

    class UnprintableError(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    class Failing:
        def __init__(self):
            raise UnprintableError

    env.register_service("svc", Failing)
    with pytest.raises(errors.DeployError, match="UnprintableError"):
        env.deploy()


def test_plan_error_starts_nothing(environments, living, diary):
    """If one service has an invalid configuration, `deploy` starts none."""
    env = environments()
    env.register_service("svc-first", living)
    env.register_service_with_config(
        "svc-second", living, deployment_config=ServiceDeploymentConfig(threading_strategy="nowhere")
    )
    with pytest.raises(errors.UnknownPluginError, match="svc-second"):
        env.deploy()
    assert (diary, ours()) == ([], [])


def test_all_or_nothing_holds_for_services_started_by_a_constructor(env, gate, until, diary):
    """If a deployment fails, services that a constructor started with a call are stopped too."""

    class Calling:
        def __init__(self):
            self.ctx.service("svc-called").method()
            gate()

        def stop(self):
            diary.append("calling stopped")

    class Failing:
        def __init__(self):
            until(lambda: gate.entered)
            gate.open()
            raise ValueError("fails late")

    class Called:
        def method(self):
            pass

        def stop(self):
            diary.append("called stopped")

    env.register_service("svc-calling", Calling)
    env.register_service("svc-failing", Failing)
    env.register_service("svc-called", Called)
    with pytest.raises(errors.DeployError, match="fails late"):
        env.deploy()
    until(lambda: not ours())
    assert "called stopped" in diary


def test_time_of_deploy_beats_the_configuration(env, gate):
    """`deploy(timeout=)` limits the wait for readiness, whatever the configuration says."""

    class Hanging:
        def __init__(self):
            gate()

    env.register_service("svc", Hanging)
    with pytest.raises(errors.DeployError, match=r"not ready after 0\.03 s"):
        env.deploy(timeout=SHORT)
    gate.open()


# -- lazy deployment ---------------------------------------------------------------------------------------------------


def test_first_call_is_bounded_by_startup_timeout(environments, gate):
    """A first call waits at most `startup_timeout` for a constructor that hangs, even with `timeout=None`."""

    class Hanging:
        def __init__(self):
            gate()

        def method(self):
            pass

    env = environments()
    env.register_service_with_config("svc", Hanging, deployment_config=config("single", startup_timeout=SHORT))
    with pytest.raises(errors.DeployError, match="not ready"):
        env.service("svc").with_options(timeout=None).method()
    gate.open()


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_task_without_an_environment_finds_no_services(living):
    """A task without an environment finds no other service."""
    task = ServiceTaskFactory(ServiceFactory("svc", living)).create_service_task()
    with pytest.raises(errors.ServiceNotFoundError, match="outside any environment"):
        task.find_service("other")
