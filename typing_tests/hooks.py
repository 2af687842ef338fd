"""A plugin's functions keep their types under `@hookimpl`, and registrations are type-checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

from sage_plugins import hookimpl
from sage_plugins.values import Problem, Registration

if TYPE_CHECKING:
    from collections.abc import Iterator


def _create(_options: None) -> Any:
    return object()


def _check(config: Any, _options: None) -> Iterator[Problem]:
    yield Problem("E999", "replicas", f"is {config.replicas}", "give another")


def _problems_as_text(_config: Any, _options: None) -> Iterator[str]:
    yield "wrong"


@hookimpl
def sage_register_load_balancers() -> list[Registration]:
    """A third-party hook."""
    return [Registration("first", _create, "Always the first", check=_check, capabilities=frozenset({"binding"}))]


@hookimpl(trylast=True)
def sage_register_monitors() -> list[Registration]:
    """A third-party hook with an option of pluggy."""
    return []


def a_hook_can_be_called_as_what_it_is() -> None:
    """A hook can be called as a plain function, as tests of plugins do."""
    assert_type(sage_register_load_balancers(), list[Registration])
    assert_type(sage_register_monitors(), list[Registration])
    sage_register_monitors("all")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def a_registration_checks_its_fields() -> None:
    """Type checkers refuse wrong names, a wrong order, and callables with other signatures."""
    Registration("first", _create)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Registration(_create, "first", "Always the first")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Registration("first", _create, "Always the first", _check)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    Registration("first", _create, "Always the first", check=_problems_as_text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Registration("first", _create, "Always the first", capabilities=["binding"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
