"""A handle shows the methods of its service, and nothing else."""

from __future__ import annotations

import inspect
import pydoc
import traceback

import pytest

from sage_plugins import errors
from shapes import Shapes

PATIENCE = 20.0
OWN = {"acall", "aio", "astream", "call", "start", "stream", "submit", "with_options"}
SERVED = {"get", "fetch", "count", "acount", "twice", "named", "fail", "afail", "run", "arun"}


@pytest.mark.parametrize("deployed", [False, True])
def test_dir_lists_the_served_methods_and_the_handles_own(env, deployed):
    """
    `dir` of a handle lists the served methods and its own, and `dir(handle.aio)` only the served ones.

    It deploys nothing.
    """
    env.register_service("shapes", Shapes)
    handle = env.service("shapes")
    if deployed:
        handle.get("k")
    assert {name for name in dir(handle) if not name.startswith("__")} == OWN | SERVED
    assert {name for name in dir(handle.aio) if not name.startswith("__")} == SERVED
    if not deployed:
        assert env.task("shapes").state == "pending"


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("where", ["handle", "aio"])
def test_signature_and_help_are_the_methods_own(env, deployed, where):
    """A handle shows each method's own signature, without `self`, and its docstring."""
    env.register_service("shapes", Shapes)
    handle = env.service("shapes")
    if deployed:
        handle.get("k")
    shown = handle if where == "handle" else handle.aio
    for name in SERVED - {"twice", "named"}:
        parameters = list(inspect.signature(getattr(Shapes, name)).parameters.values())[1:]
        assert list(inspect.signature(getattr(shown, name)).parameters.values()) == parameters
    assert list(inspect.signature(shown.twice).parameters) == ["value"]
    assert list(inspect.signature(shown.named).parameters) == ["value"]
    assert inspect.signature(shown.get).return_annotation == inspect.signature(Shapes.get).return_annotation
    text = pydoc.plain(pydoc.render_doc(shown.get))
    assert "get(key: 'str', *, default: 'int' = 3)" in text
    assert "Give the key and the default." in text


def test_signature_is_not_read_before_somebody_asks(env, monkeypatch):
    """Looking up an attribute or calling it does not compute its signature."""
    env.register_service("shapes", Shapes)
    handle = env.service("shapes")
    handle.get("k")
    monkeypatch.setattr(inspect, "signature", lambda *_, **__: pytest.fail("a signature was read"))
    assert handle.fetch("k").result(PATIENCE) == ("k", 3)
    assert list(handle.count(1)) == [0]


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("where", ["handle", "aio"])
def test_name_that_is_not_served_is_no_attribute(env, deployed, where):
    """A name that is not served raises MethodNotFoundError, an AttributeError, which suggests the nearest name."""
    env.register_service("shapes", Shapes)
    handle = env.service("shapes")
    if deployed:
        handle.get("k")
    shown = handle if where == "handle" else handle.aio
    with pytest.raises(errors.MethodNotFoundError, match="did you mean 'fetch'") as caught:
        _ = shown.fecth
    (text,) = traceback.format_exception_only(caught.value)
    assert text.lower().count("did you mean") == 1, "Python adds no guess of its own"
    assert not any(hasattr(shown, name) for name in ("stop", "_hidden", "nothing"))


@pytest.mark.parametrize("where", ["handle", "aio"])
def test_attributes_cannot_be_assigned(env, where):
    """Attributes of a handle can be neither assigned nor deleted; the error says why."""
    env.register_service("shapes", Shapes)
    shown = env.service("shapes") if where == "handle" else env.service("shapes").aio
    for name in ("get", "anything", "call", "_name"):
        with pytest.raises(AttributeError, match=f"takes no attributes of its own, such as '{name}'"):
            setattr(shown, name, 3)
        with pytest.raises(AttributeError, match="takes no attributes of its own"):
            delattr(shown, name)
