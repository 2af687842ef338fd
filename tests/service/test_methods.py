"""What a class serves: whether batch methods fit the methods they answer, and what arguments callers give."""

from __future__ import annotations

import pytest

from sage_plugins import ServiceDeploymentConfig, batch_of
from sage_plugins.service.methods import method_plans, parameters_of


def one(self, a): ...


def two(self, a, b): ...


def two_lists(self, a, b, *, note=""): ...


def nothing(self): ...


def any_number(self, *values): ...


def stream(self, a):
    yield a


@pytest.mark.parametrize(
    ("method", "many"),
    [
        (one, lambda self, a: a),
        (two, two_lists),
        (one, any_number),
        (staticmethod(lambda a: a), staticmethod(lambda a: a)),
    ],
    ids=["one", "two", "any number", "static"],
)
def test_batch_method_takes_a_list_for_each_parameter(method, many):
    """A batch method takes one list for each parameter of its method."""
    marked = staticmethod(batch_of("m")(many.__func__)) if isinstance(many, staticmethod) else batch_of("m")(many)
    assert method_plans(type("K", (), {"m": method, "many": marked}), ServiceDeploymentConfig())[1] == []


@pytest.mark.parametrize(
    ("method", "many", "words"),
    [
        (two, lambda self, a: a, "it must take 2 lists, one for each parameter of 'm'"),
        (one, lambda self: 1, "it must take a list, one for each parameter of 'm'"),
        (nothing, lambda self: 1, "'m' takes no arguments of which there could be a list"),
        (any_number, lambda self, a: a, "'m' takes any number of arguments: name its parameters"),
        (stream, lambda self, a: a, "'m' is a generator"),
        (None, lambda self, a: a, "there is no such method"),
        (dict.pop, lambda self, a: a, "'m' takes no arguments of which there could be a list"),
    ],
    ids=["too few", "none for one", "none", "any number", "stream", "missing", "in C"],
)
def test_batch_method_that_does_not_fit_is_a_mistake_of_the_class(method, many, words):
    """A batch method that does not fit its method is a problem of the class, also for methods written in C."""
    cls = type("K", (), {"m": method, "many": batch_of("m")(many)})
    (problem,) = method_plans(cls, ServiceDeploymentConfig())[1]
    assert (problem.id, problem.key) == ("E506", "class")
    assert words in problem.message


class Callable:
    def __call__(self, a): ...


class Kinds:
    def bare(self, a): ...

    @classmethod
    def of_class(cls, a): ...

    @staticmethod
    def static(a): ...

    def star(*values): ...

    unsaid = dict.pop
    thing = Callable()


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("bare", ["a"]),
        ("of_class", ["a"]),
        ("static", ["a"]),
        ("thing", ["a"]),
        ("star", ["values"]),
        ("unsaid", None),
    ],
)
def test_callers_give_everything_but_the_instance(name, given):
    """Callers give all arguments but the instance; for some methods written in C they are unknown."""
    found = parameters_of(Kinds, name)
    assert (None if found is None else [each.name for each in found]) == given
