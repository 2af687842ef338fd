"""What cannot be sent to a process that does not have it is named, with its path and the reason."""

from __future__ import annotations

import threading
from contextlib import closing
from sqlite3 import connect
from typing import Any

import pytest

from other_process import OtherProcess
from sage_deploy_remote.shipping.specs import pack_spec, problems
from sage_plugins.errors import DeployError, RemoteError
from sage_plugins.values import Choice, Registration
from shipped_project import Plugin, load, make_nothing, spec_of, write


class Database:
    def __init__(self, connection: Any) -> None:
        self.conn = connection


class KVService:
    def __init__(self, *names: Any, db: Any = None) -> None:
        self.db = db


def test_an_argument_of_the_constructor_that_cannot_be_sent_is_named_with_its_path():
    """A constructor argument that cannot be sent is reported as E703 with its path, and what to do."""
    with closing(connect(":memory:")) as connection:
        spec = spec_of(KVService, "a", db=Database(connection))
        (problem,) = problems(spec)
        with pytest.raises(DeployError) as caught:
            pack_spec(spec)

    assert (problem.id, problem.key) == ("E703", "init.kwargs.db")
    assert problem.message == (
        "the constructor's argument 'db' of service 'svc' cannot be pickled: KVService.__init__(db=...).conn: "
        "cannot pickle 'sqlite3.Connection' object"
    )
    assert str(caught.value) == (
        f"replica svc#0 cannot be sent to another process: {problem.message} (build it in __init__ or setup(), which "
        "run where the replica does)"
    )
    assert (caught.value.service, caught.value.replica) == ("svc", "svc#0")


def test_every_part_that_cannot_be_sent_is_found():
    """All parts of a spec that cannot be sent are reported at once: class, arguments and strategy options."""
    lock = threading.Lock()

    class Local:
        kept = lock

    strategy = Choice(Registration("mine", make_nothing, "For tests."), lock, Plugin())
    spec = spec_of(Local, 1, lock, strategy=strategy)

    assert [(problem.key, problem.message.partition(": ")[2]) for problem in problems(spec)] == [
        ("class", f"{Local.__qualname__}.kept: cannot pickle '_thread.lock' object"),
        ("init.args.1", "argument 2 of " + Local.__qualname__ + ".__init__: cannot pickle '_thread.lock' object"),
        ("threading_strategy", "strategy.options: cannot pickle '_thread.lock' object"),
    ]


def test_what_can_be_sent_has_no_problems():
    assert problems(spec_of(KVService, "a", db=None)) == []


def test_a_foreign_factory_is_looked_at_as_a_whole():
    """If the factory is not the standard one, the problem names the part of the factory."""

    class Factory:
        service_name = "svc"
        service_class = dict

        def __init__(self):
            self.lock = threading.Lock()

    (problem,) = problems(spec_of(dict)._replace(factory=Factory()))
    assert problem.message.endswith("factory.lock: cannot pickle '_thread.lock' object")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("needs", "ModuleNotFoundError: No module named 'only_here'. Install only_here on every node"),
        ("broken", "SystemExit: 3"),
    ],
)
def test_what_is_missing_on_the_other_side_is_named(project, elsewhere, module, message):
    """If a module cannot be imported on the other side, the deployment error says what is missing."""
    with OtherProcess(elsewhere) as other, pytest.raises(DeployError) as caught:
        other.serve(spec_of(load(module).Service))
    assert str(caught.value).startswith(f"replica svc#0 cannot be built here: {message}")


def test_a_result_of_a_class_that_only_the_other_side_has_is_told_of(project, elsewhere):
    """
    A result whose class exists only there fails the call with ModuleNotFoundError; such an error becomes RemoteError.
    """
    only_there = write(elsewhere / "path", {"only_there.py": "class Thing(Exception): pass"})
    with OtherProcess(elsewhere, only_there) as other:
        other.serve(spec_of(load("shop.service").Shop, None))
        with pytest.raises(ModuleNotFoundError, match="only_there"):
            other.call("run", exec_there, "import only_there; result = only_there.Thing()")
        with pytest.raises(RemoteError, match=r"only_there\.Thing"):
            other.call("run", exec_there, "import only_there; raise only_there.Thing()")


def exec_there(code: str) -> Any:
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - written in these tests
    return names["result"]
