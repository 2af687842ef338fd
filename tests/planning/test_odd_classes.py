"""A class whose metaclass raises when it is inspected is a problem of its service, and does not end the check."""

from __future__ import annotations

import re
import sys
import textwrap

import pytest

from sage_plugins import Environment, errors

#: Ways in which a metaclass can raise when its class is inspected.
WAYS = {
    "getattr": "def __getattr__(cls, name): raise {error}",
    "getattribute": (
        "def __getattribute__(cls, name):\n"
        "        if name.startswith('__'): return super().__getattribute__(name)\n"
        "        raise {error}"
    ),
    "dir": "def __dir__(cls): raise {error}",
    "signature": "@property\n    def __signature__(cls): raise {error}",
}


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """A module with a class that has such a metaclass."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(way, error):
        metaclass = f"class Odd(type):\n    {WAYS[way].format(error=error)}\n"
        service = "class Service(metaclass=Odd):\n    def echo(self, value):\n        return value\n"
        (tmp_path / "odd_classes.py").write_text(metaclass + "\n" + service)
        path = tmp_path / "odd.yaml"
        path.write_text(textwrap.dedent("services: {echo: {class: 'odd_classes:Service', threading_strategy: pol}}"))
        return path

    yield write
    sys.modules.pop("odd_classes", None)


@pytest.mark.parametrize("error", ["SystemExit(0)", "BaseException('base')", "GeneratorExit"])
@pytest.mark.parametrize("way", WAYS)
def test_a_class_that_cannot_be_looked_at_is_a_problem_at_its_place(odd, way, error):
    """
    `check` reports a class that raises when inspected, with its place.

    Other problems are reported too; even SystemExit does not end the check.
    """
    with Environment("odd") as env:
        env.load_service_deployment_config(odd(way, error))
        found = {problem.id: str(problem) for problem in env.check()}
        with pytest.raises(errors.SageDeployError):
            env.plan()
    assert "E207" in found
    if way == "dir":  # nothing calls it
        return
    where = r"odd\.yaml:1:26: error E703: services\.echo\.class: "
    assert re.search(
        where + r"('odd_classes:Service'|<class 'odd_classes\.Service'>) cannot be inspected", found["E703"]
    )


@pytest.mark.parametrize("error", ["SystemExit(0)", "BaseException('base')", "GeneratorExit", "ValueError('odd')"])
@pytest.mark.parametrize("way", ["getattr", "getattribute"])
def test_a_class_that_was_registered_is_no_other(odd, way, error):
    """If such a class was registered in code, its plan is refused with the reason."""
    odd(way, error)
    from odd_classes import Service

    with Environment("odd") as env:
        try:
            env.register_service("echo", Service)
        except Exception:  # noqa: BLE001 - the class may be refused at once
            return
        with pytest.raises(errors.PlanError, match=r"odd_classes:Service' cannot be inspected"):
            env.plan()


def test_an_interrupt_is_none_of_it(odd):
    """Ctrl-C while a class is inspected ends the command."""
    with Environment("odd") as env:
        env.load_service_deployment_config(odd("getattr", "KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            env.check()
